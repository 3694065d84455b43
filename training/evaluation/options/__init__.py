"""Settings of parts of the evaluation.

method_settings    a method: a row of the tables
"""
