-- What loads changed in rows; see mailbox/target/history.py for what each promises.

-- name: changed_tables
SELECT DISTINCT target, table_oid, key_column FROM mailferry.row_changes
WHERE job_id = %(job)s AND undone_at IS NULL ORDER BY target
