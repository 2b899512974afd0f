-- Where the attachment is that a file lay in, as it came; '' for a file that is the attachment itself.
ALTER TABLE mailferry.files ADD COLUMN original text NOT NULL DEFAULT '';
CREATE INDEX files_original ON mailferry.files (original) WHERE original <> '';
