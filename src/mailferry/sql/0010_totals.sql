-- What was counted since the ledger began, for metrics: sums that only grow, whatever is retried, expired or deleted since.
CREATE TABLE mailferry.totals (
    feed   text NOT NULL,
    -- 'rows'; 'job_seconds', 'collect_seconds', 'poll_seconds'.
    metric text NOT NULL,
    -- Of rows: what became of them. Of seconds: 'sum', or the upper bound of a bucket that counts what no smaller one does.
    label  text NOT NULL,
    value  double precision NOT NULL,
    PRIMARY KEY (feed, metric, label)
);

-- Count one duration. The bounds are the same for ever: sums of others could not be added to these.
CREATE FUNCTION mailferry.count_seconds(feed text, metric text, seconds double precision) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO mailferry.totals AS t (feed, metric, label, value)
    SELECT $1, $2, label, value
    FROM (VALUES (
              coalesce((SELECT min(bound) FROM unnest(ARRAY[0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200]) AS bound
                        WHERE $3 <= bound)::text, '+Inf'),
              1
          ), ('sum', $3)) AS counted (label, value)
    WHERE $3 IS NOT NULL
    ORDER BY label
    ON CONFLICT ON CONSTRAINT totals_pkey DO UPDATE SET value = t.value + EXCLUDED.value
$$;

INSERT INTO mailferry.totals (feed, metric, label, value)
SELECT j.feed, 'rows', c.label, sum(c.value)
FROM mailferry.files AS f
JOIN mailferry.jobs AS j ON j.id = f.job_id
CROSS JOIN LATERAL (VALUES
    ('read', f.rows_read), ('inserted', f.inserted), ('updated', f.updated), ('unchanged', f.unchanged),
    ('superseded', f.superseded), ('rejected', f.rejected)
) AS c (label, value)
GROUP BY 1, 2, 3;
