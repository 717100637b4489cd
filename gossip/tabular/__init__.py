"""Tables by an agreed schema: text in, checked and scaled arrays out. Pure: no files, no clock, no torch on import."""
