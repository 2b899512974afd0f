-- Messages that are not wanted, see mailbox/ledger/strangers.py.

-- name: known
SELECT uid FROM mailferry.strangers WHERE feed = %(feed)s AND view = %(view)s

-- name: forget_views
DELETE FROM mailferry.strangers WHERE feed = %(feed)s AND view <> %(view)s

-- name: forget
DELETE FROM mailferry.strangers WHERE feed = %(feed)s AND view = %(view)s AND uid = ANY(%(uids)s::text[])

-- name: add
INSERT INTO mailferry.strangers (feed, view, uid) SELECT %(feed)s, %(view)s, unnest(%(uids)s::text[])
ON CONFLICT DO NOTHING
