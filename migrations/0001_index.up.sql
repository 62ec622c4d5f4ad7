-- The index: what the log says was received, as rows to search. Everything here can
-- be rebuilt from the log while the objects are held.
--
-- `id` counts a table's rows in order of arrival; the indexer, the only writer, gives it out. An
-- attribute's column is NULL when no object had it, '' when it had no value.
-- `_folded` is a person's name as it is compared (upper case, no accents), `_normal` a date or
-- time in full, so that its text sorts as it does.

CREATE TABLE patients (
    id BIGINT NOT NULL PRIMARY KEY,
    -- Patient ID and issuer; for a patient without an ID, who is known by one study only, its UID.
    identity TEXT NOT NULL,
    patient_name TEXT,
    patient_name_folded TEXT,
    patient_id TEXT,
    issuer_of_patient_id TEXT,
    patient_birth_date TEXT,
    patient_birth_date_normal TEXT,
    patient_birth_time TEXT,
    patient_birth_time_normal TEXT,
    patient_sex TEXT,
    patient_comments TEXT,
    number_of_patient_related_studies BIGINT NOT NULL,
    number_of_patient_related_series BIGINT NOT NULL,
    number_of_patient_related_instances BIGINT NOT NULL,
    freed_instances BIGINT NOT NULL
);

CREATE UNIQUE INDEX patients_identity ON patients (identity);
CREATE INDEX patients_patient_id ON patients (patient_id);
CREATE INDEX patients_name ON patients (patient_name_folded);
CREATE INDEX patients_birth_date ON patients (patient_birth_date_normal);

-- The patient's columns are here too, so that the study level reads one table.
CREATE TABLE studies (
    id BIGINT NOT NULL PRIMARY KEY,
    patient BIGINT NOT NULL REFERENCES patients (id),
    patient_name TEXT,
    patient_name_folded TEXT,
    patient_id TEXT,
    issuer_of_patient_id TEXT,
    patient_birth_date TEXT,
    patient_birth_date_normal TEXT,
    patient_birth_time TEXT,
    patient_birth_time_normal TEXT,
    patient_sex TEXT,
    patient_comments TEXT,
    study_date TEXT,
    study_date_normal TEXT,
    study_time TEXT,
    study_time_normal TEXT,
    accession_number TEXT,
    referring_physician_name TEXT,
    referring_physician_name_folded TEXT,
    study_description TEXT,
    name_of_physicians_reading_study TEXT,
    name_of_physicians_reading_study_folded TEXT,
    patient_age TEXT,
    patient_size TEXT,
    patient_weight TEXT,
    study_instance_uid TEXT,
    study_id TEXT,
    modalities_in_study TEXT NOT NULL,
    sop_classes_in_study TEXT NOT NULL,
    number_of_study_related_series BIGINT NOT NULL,
    number_of_study_related_instances BIGINT NOT NULL,
    freed_instances BIGINT NOT NULL,
    -- 1: objects of this study named another patient; the first one stays.
    identity_conflict BIGINT NOT NULL,
    -- Times at which its first and its latest object were received.
    first_received_at BIGINT NOT NULL,
    last_received_at BIGINT NOT NULL
);

CREATE UNIQUE INDEX studies_uid ON studies (study_instance_uid);
CREATE INDEX studies_patient ON studies (patient);
CREATE INDEX studies_patient_id ON studies (patient_id);
CREATE INDEX studies_patient_name ON studies (patient_name_folded);
CREATE INDEX studies_accession_number ON studies (accession_number);
CREATE INDEX studies_study_date ON studies (study_date_normal);
CREATE INDEX studies_study_id ON studies (study_id);
CREATE INDEX studies_birth_date ON studies (patient_birth_date_normal);
CREATE INDEX studies_referring ON studies (referring_physician_name_folded);

CREATE TABLE series (
    id BIGINT NOT NULL PRIMARY KEY,
    study BIGINT NOT NULL REFERENCES studies (id),
    timezone_offset_from_utc TEXT,
    modality TEXT,
    series_date TEXT,
    series_date_normal TEXT,
    series_time TEXT,
    series_time_normal TEXT,
    manufacturer TEXT,
    institution_name TEXT,
    station_name TEXT,
    series_description TEXT,
    institutional_department_name TEXT,
    performing_physician_name TEXT,
    performing_physician_name_folded TEXT,
    operators_name TEXT,
    operators_name_folded TEXT,
    manufacturer_model_name TEXT,
    body_part_examined TEXT,
    protocol_name TEXT,
    series_instance_uid TEXT,
    series_number TEXT,
    laterality TEXT,
    performed_procedure_step_start_date TEXT,
    performed_procedure_step_start_date_normal TEXT,
    performed_procedure_step_start_time TEXT,
    performed_procedure_step_start_time_normal TEXT,
    number_of_series_related_instances BIGINT NOT NULL,
    freed_instances BIGINT NOT NULL
);

CREATE UNIQUE INDEX series_identity ON series (study, series_instance_uid);
CREATE INDEX series_uid ON series (series_instance_uid);
CREATE INDEX series_modality ON series (modality, study);

-- One row for each SOP Instance UID; `entry` is the latest that holds it.
CREATE TABLE instances (
    id BIGINT NOT NULL PRIMARY KEY,
    series BIGINT NOT NULL REFERENCES series (id),
    study BIGINT NOT NULL REFERENCES studies (id),
    entry BIGINT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL,
    data_set_length BIGINT NOT NULL,
    data_set_sha256 TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    -- When the bytes were freed after delivery, and the destinations that hold the object then.
    freed_at BIGINT,
    freed_to TEXT,
    sop_class_uid TEXT,
    sop_instance_uid TEXT,
    instance_creation_date TEXT,
    instance_creation_date_normal TEXT,
    instance_creation_time TEXT,
    instance_creation_time_normal TEXT,
    image_type TEXT,
    acquisition_date TEXT,
    acquisition_date_normal TEXT,
    content_date TEXT,
    content_date_normal TEXT,
    acquisition_date_time TEXT,
    acquisition_date_time_normal TEXT,
    acquisition_time TEXT,
    acquisition_time_normal TEXT,
    content_time TEXT,
    content_time_normal TEXT,
    acquisition_number TEXT,
    instance_number TEXT,
    number_of_frames TEXT,
    rows TEXT,
    columns TEXT,
    bits_allocated TEXT,
    content_label TEXT,
    content_description TEXT,
    completion_flag TEXT,
    verification_flag TEXT
);

CREATE UNIQUE INDEX instances_uid ON instances (sop_instance_uid);
CREATE UNIQUE INDEX instances_entry ON instances (entry);
CREATE INDEX instances_series ON instances (series, id);
CREATE INDEX instances_study ON instances (study, series, id);
CREATE INDEX instances_sop_class ON instances (sop_class_uid, study);

-- Objects with the UID of another and other content: held for a person, never found by a search.
CREATE TABLE conflicts (
    entry BIGINT NOT NULL PRIMARY KEY,
    conflict_with BIGINT NOT NULL,
    study_instance_uid TEXT NOT NULL,
    series_instance_uid TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    sop_class_uid TEXT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL,
    data_set_length BIGINT NOT NULL,
    data_set_sha256 TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    freed_at BIGINT
);

CREATE INDEX conflicts_uid ON conflicts (sop_instance_uid);

-- What finds a value that has several, or a person's name, which has groups. `kind` tells what a
-- part is: `value` one of several values, `name` a name or any group of it; `name1`, `name2` and
-- `name3` the first, second and third group, whose whole is the one name.
CREATE TABLE value_parts (
    kind TEXT NOT NULL,
    part TEXT NOT NULL,
    whole TEXT NOT NULL,
    PRIMARY KEY (kind, part, whole)
);

-- Where the indexer stands in the log; moves in the transaction that moves the rows.
CREATE TABLE index_position (
    name TEXT NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL
);

INSERT INTO index_position (name, position) VALUES ('index', 0);
