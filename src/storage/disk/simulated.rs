//! A disk in memory that crashes on demand.
