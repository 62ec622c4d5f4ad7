//! Secrets come only from files that others can't read (`*_file` keys). What is read here never
//! reaches a log line or an error text.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Longer files are not secrets.
const LONGEST: u64 = 4096;
/// Readable or writable by others, or writable by the group.
const FORBIDDEN_MODE: u32 = 0o027;

/// The content of a secret's file, less surrounding white space; `Err` says in a few words what is
/// wrong with the file.
pub fn read(path: &Path) -> Result<String, String> {
    let metadata = std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if !metadata.is_file() {
        return Err(format!("{} is not a file", path.display()));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & FORBIDDEN_MODE != 0 {
        return Err(format!("{} has mode {mode:04o}; make it 0600, 0440 or 0400", path.display()));
    }
    if metadata.size() > LONGEST {
        return Err(format!("{} is longer than {LONGEST} bytes", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    match text.trim() {
        "" => Err(format!("{} is empty", path.display())),
        secret => Ok(secret.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    fn file_with_mode(mode: u32, content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_secret_is_read_without_its_line_end() {
        for mode in [0o600, 0o400, 0o440] {
            assert_eq!(super::read(file_with_mode(mode, "s3cret\n").path()).unwrap(), "s3cret");
        }
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused_without_being_shown() {
        for mode in [0o644, 0o604, 0o660, 0o602] {
            let refusal = super::read(file_with_mode(mode, "s3cret").path()).unwrap_err();
            assert!(refusal.contains("mode") && !refusal.contains("s3cret"), "{refusal}");
        }
    }

    #[test]
    fn an_empty_or_missing_secret_is_refused() {
        assert!(super::read(file_with_mode(0o600, " \n").path()).unwrap_err().contains("empty"));
        assert!(super::read(std::path::Path::new("/nonexistent/secret")).is_err());
    }
}
