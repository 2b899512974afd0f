-- Hidden rows that were left out: a list with such rows is not whole.
ALTER TABLE mailferry.files ADD COLUMN left_out bigint NOT NULL DEFAULT 0;
