"""The pilot: find the settings of DreamBooth on a few people, before thousands of teachers are trained with them.

settings         what a pilot tries, and on whom
grid             which settings are tried
pilot_people     on whom: people of the dataset with their images, prepared as the dataset's stages prepare them
prompt_similarity CLIP-T: does an image show what its caption says?
setting_measures likeness, held-out loss and prompt similarity of one setting's LoRAs
setting_run      one setting after another is trained and measured; what is done is kept
choice           the cheapest setting that is as good as the best
settings_sheet   a row for each person, a column for each setting
pilot_report     the table, pilot.json and the contact sheet
find_settings    all of it, one after another
settings_file    changing values in a settings file, comments and order kept
"""
