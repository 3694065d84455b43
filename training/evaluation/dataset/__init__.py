"""The people of a recipe's dataset, in place of a folder of people.

dataset_people     who, and which of their images methods are given
teacher_files      LoRAs of a store as files, which methods read
"""
