-- Every TEXT column of ours is compared and sorted by its bytes, as SQLite does, so that both
-- databases find and order alike and prefix searches use the plain indexes. Stated once for all
-- tables, because SQLite does not know the collation "C". New columns are still empty here.
DO $$
DECLARE
    found RECORD;
BEGIN
    FOR found IN
        SELECT c.table_name, c.column_name
        FROM information_schema.columns c
        JOIN information_schema.tables t
            ON t.table_schema = c.table_schema AND t.table_name = c.table_name
        WHERE c.table_schema = current_schema()
            AND t.table_type = 'BASE TABLE'
            AND c.table_name <> '_sqlx_migrations'
            AND c.data_type = 'text'
            AND c.collation_name IS DISTINCT FROM 'C'
    LOOP
        EXECUTE format(
            'ALTER TABLE %I ALTER COLUMN %I TYPE TEXT COLLATE "C"',
            found.table_name, found.column_name
        );
    END LOOP;
END
$$;
