-- Which time each event feed has listed when, and what was written of it; see events/coverage.py.
ALTER TABLE mailferry.event_progress ADD COLUMN coverage jsonb;
