-- Rows that are absent from a list; see mailbox/target/absent.py for what each promises.

-- name: not_whole
-- What is still pending goes to other tables.
SELECT count(*) FROM mailferry.files
WHERE job_id = %(job)s AND id <> %(file)s AND (state NOT IN ('loaded', 'pending') OR rejected > 0 OR left_out > 0)

-- name: newer_list
-- By order of arrival the message is as old as the first of its files that was loaded, maybe by an earlier attempt.
SELECT job_id FROM mailferry.row_scopes
WHERE feed = %(feed)s AND (%(whole)s OR sender = %(sender)s) AND job_id <> %(job)s AND seen_at > coalesce(%(seen)s, (
    SELECT min(finished_at) FROM mailferry.files WHERE job_id = %(job)s AND id <> %(file)s AND state = 'loaded'
))
ORDER BY seen_at DESC LIMIT 1
