DROP TABLE paused_destinations;
DROP TABLE peers;
DROP TABLE destinations;
