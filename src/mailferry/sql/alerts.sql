-- The memory of the alerts' channels; see monitor/alerts/memory.py.

-- name: look
SELECT memory FROM mailferry.alerts WHERE channel = %(channel)s

-- name: take
-- No row while another process sends.
INSERT INTO mailferry.alerts AS a (channel, holder, until) VALUES (%(channel)s, %(holder)s, now() + interval '5 minutes')
ON CONFLICT (channel) DO UPDATE SET holder = EXCLUDED.holder, until = EXCLUDED.until
WHERE a.until < now() OR a.holder = EXCLUDED.holder
RETURNING memory

-- name: remember
UPDATE mailferry.alerts SET memory = %(memory)s, until = now() + interval '5 minutes'
WHERE channel = %(channel)s AND holder = %(holder)s

-- name: release
UPDATE mailferry.alerts SET until = '-infinity' WHERE channel = %(channel)s AND holder = %(holder)s
