-- One file may be loaded by several routes of its feed: a row for each.
ALTER TABLE mailferry.files ADD COLUMN route integer NOT NULL DEFAULT 0;
ALTER TABLE mailferry.files DROP CONSTRAINT files_job_id_section_member_key;
ALTER TABLE mailferry.files ADD UNIQUE (job_id, section, member, route);

-- Whether a row is another route of the same file, which makes neither a duplicate.
CREATE FUNCTION mailferry.same_file(one mailferry.files, other_id bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM mailferry.files AS other
        WHERE other.id = other_id AND other.id <> one.id
          AND (other.job_id, other.section, other.member) = (one.job_id, one.section, one.member)
    )
$$;
