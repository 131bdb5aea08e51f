-- What was counted of the use of credentials when a process stopped, as it lay in memory: a stop waits for one row, and
-- the next start sorts it out.
CREATE TABLE put_down (
    id   INTEGER PRIMARY KEY,
    uses BLOB NOT NULL
) STRICT;
