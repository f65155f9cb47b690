//! Ways in for the fuzz targets, to parsers that are this crate's own business. They are there with `--cfg fuzzing` alone.

/// A line of a configuration file, by the syntax of each of them.
pub fn config_line(line: &str) {
    crate::config_files::read(line);
}

/// The file that says which process a server is.
pub fn pid_file(bytes: &[u8]) {
    crate::running::read(bytes);
}
