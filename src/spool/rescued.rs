//! Where a failing disk could not be read. A copy of the log made as docs/operations.md says ("When the disk fails") has
//! the log's id there, again and again: unlike zeros, it can't be taken for what was never written. Nobody who sends
//! objects can lay it out, for the id never leaves the node.

use std::io;
use std::os::unix::fs::FileExt;

use super::disk_view::ReadAt;
use super::log_id::{FILE_LENGTH, LogId};
use super::segment::Segment;

/// What a disk reads or not, at the least.
pub const SECTOR: usize = 512;

/// Where such sectors begin, from that with `offset` on.
pub fn sectors(source: &dyn ReadAt, segment: &Segment, offset: u64) -> io::Result<Vec<u64>> {
    const WINDOW: usize = 1 << 20;
    let mut sectors = Vec::new();
    // Logs that were begun before there were ids have zeros.
    if segment.log == LogId::default() {
        return Ok(sectors);
    }
    let id = segment.log.in_file();
    let mut at = offset - offset % SECTOR as u64;
    let mut window = vec![0; WINDOW];
    while at + SECTOR as u64 <= segment.size {
        let length = (segment.size - at).min(WINDOW as u64) as usize;
        source.read_exact_at(&mut window[..length], at)?;
        let places = (at..).step_by(SECTOR);
        let found =
            places.zip(window[..length].chunks_exact(SECTOR)).filter(|(_, sector)| repeats(sector, &id));
        sectors.extend(found.map(|(place, _)| place));
        at += length as u64;
    }
    Ok(sectors)
}

/// Nothing is in them, and the next use of the segment must not meet them. Durable when it returns.
pub fn clear(segment: &Segment, sectors: &[u64]) -> io::Result<()> {
    for at in sectors {
        segment.file.write_all_at(&[0; SECTOR], *at)?;
    }
    segment.file.sync_data()
}

/// Whether nothing but the id is in it, beginning anywhere within.
fn repeats(sector: &[u8], id: &[u8; FILE_LENGTH]) -> bool {
    let is_periodic = sector.iter().zip(&sector[FILE_LENGTH..]).all(|(one, next)| one == next);
    is_periodic && sector[..2 * FILE_LENGTH].windows(FILE_LENGTH).any(|bytes| bytes == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_is_told_wherever_in_the_id_it_begins_and_by_no_other_id() {
        let (id, other) = (LogId::random().in_file(), LogId::random().in_file());
        for begin in 0..FILE_LENGTH {
            let sector: Vec<u8> = id.iter().copied().cycle().skip(begin).take(SECTOR).collect();
            assert!(repeats(&sector, &id) && !repeats(&sector, &other));
            for at in [0, 300, SECTOR - 1] {
                let mut written = sector.clone();
                written[at] ^= 1;
                assert!(!repeats(&written, &id), "{at}");
            }
        }
        assert!(!repeats(&[0; SECTOR], &id));
    }
}
