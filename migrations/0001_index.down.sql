DROP TABLE index_position;
DROP TABLE value_parts;
DROP TABLE conflicts;
DROP TABLE instances;
DROP TABLE series;
DROP TABLE studies;
DROP TABLE patients;
