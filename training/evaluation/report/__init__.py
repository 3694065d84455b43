"""The report: report.html, report.md, report.json and contact sheets.

evaluation_report   everything that a report says
report_values       as JSON
report_blocks       blocks of text, and how they are written as Markdown
report_tables       a report as blocks
scatter             likeness against prompt fidelity
contact_sheets      people × methods for one prompt, prompts × methods for one person
report_page         one HTML file with everything in it
"""
