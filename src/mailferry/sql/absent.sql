-- Rows that are absent from a list; see mailbox/target/absent.py for what each promises.

-- name: not_whole
-- What is still pending goes to other tables.
SELECT count(*) FROM mailferry.files
WHERE job_id = %(job)s AND id <> %(file)s AND (state NOT IN ('loaded', 'pending') OR rejected > 0)

-- name: newer_list
SELECT job_id FROM mailferry.row_scopes
WHERE feed = %(feed)s AND (%(whole)s OR sender = %(sender)s) AND seen_at > %(seen)s
ORDER BY seen_at DESC LIMIT 1
