//! Tells records of this log from bytes that look like them. Recovery searches for records behind damage, and in what an
//! earlier use of a segment left: whoever sends objects could lay out records of their own there. They would have to
//! know 56 random bits that never leave the node.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::failpoint;

/// Zeros in logs that were begun before there was one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogId {
    /// Stands in each record's header …
    pub tag: [u8; 3],
    /// … and this does not: its checksum begins with it.
    pub seed: u32,
}

pub const LENGTH: usize = 7;
/// In the folder of segments. Each segment has it too.
const FILE: &str = "log-id";

impl LogId {
    pub fn random() -> LogId {
        // Its low 80 bits are random.
        LogId::decode(ulid::Ulid::new().0.to_le_bytes().first_chunk().unwrap_or(&[0; LENGTH]))
    }

    pub fn encode(self) -> [u8; LENGTH] {
        let ([a, b, c], [d, e, f, g]) = (self.tag, self.seed.to_le_bytes());
        [a, b, c, d, e, f, g]
    }

    pub fn decode(bytes: &[u8; LENGTH]) -> LogId {
        let [a, b, c, d, e, f, g] = *bytes;
        LogId { tag: [a, b, c], seed: u32::from_le_bytes([d, e, f, g]) }
    }

    /// CRC-32C of a header, as only this log has it.
    pub fn checksum(self, header: &[u8]) -> u32 {
        crc32c::crc32c_append(self.seed, header)
    }

    /// As the folder's file has it.
    pub fn read(folder: &Path) -> io::Result<Option<LogId>> {
        let bytes = match std::fs::read(folder.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let Some((id, checksum)) = bytes.split_first_chunk::<LENGTH>() else { return Ok(None) };
        Ok((crc32c::crc32c(id).to_le_bytes() == *checksum).then(|| LogId::decode(id)))
    }

    /// Durable when it returns.
    pub fn write(self, folder: &Path) -> io::Result<()> {
        let id = self.encode();
        let unfinished = folder.join(format!("{FILE}.new"));
        let mut file = File::create(&unfinished)?;
        file.write_all(&[&id[..], &crc32c::crc32c(&id).to_le_bytes()].concat())?;
        failpoint::sync("log_id", || file.sync_all())?;
        std::fs::rename(&unfinished, folder.join(FILE))?;
        failpoint::sync("log_id", || File::open(folder)?.sync_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_a_damaged_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(LogId::read(dir.path()).unwrap(), None);
        let id = LogId::random();
        assert_ne!(id, LogId::random());
        id.write(dir.path()).unwrap();
        assert_eq!(LogId::read(dir.path()).unwrap(), Some(id));
        let mut bytes = std::fs::read(dir.path().join(FILE)).unwrap();
        bytes[2] ^= 1;
        std::fs::write(dir.path().join(FILE), bytes).unwrap();
        assert_eq!(LogId::read(dir.path()).unwrap(), None);
    }
}
