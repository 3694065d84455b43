"""The report: report.md, report.json and contact sheets.

evaluation_report   everything that a report says
report_values       as JSON
report_tables       as Markdown
contact_sheets      people × methods for one prompt, prompts × methods for one person
"""
