//! Takes what a crash tore out of the log, at the next start: nobody was answered for it, but records written later
//! carry a mark beyond its number, and whoever replays the log from before it would take it for a loss.

use std::io;
use std::os::unix::fs::FileExt;

use super::SpoolError;
use super::projection::Published;
use super::record::{HEADER_LENGTH, RecordHeader};
use super::segment::Segments;
use super::state::Place;

/// A record, or several side by side of which nothing can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Torn {
    pub place: Place,
    pub length: u64,
    /// The number of the last of them.
    pub sequence: u64,
}

impl Torn {
    pub fn record(published: &Published) -> Torn {
        let Published { place, sequence, after, .. } = *published;
        Torn { place, length: after.offset() - u64::from(place.offset), sequence }
    }
}

/// Puts a void in the place of each, on the disk when it returns; of their bytes only the first are written over.
pub fn take_out(segments: &Segments, torn: &[Torn], acked_through: u64) -> Result<(), SpoolError> {
    for torn in torn.chunk_by(|one, next| one.place.generation == next.place.generation) {
        let Some(segment) = segments.get(torn[0].place.generation) else { continue };
        let put_voids = || -> io::Result<()> {
            for Torn { place, length, sequence } in
                torn.iter().filter(|torn| torn.length >= HEADER_LENGTH as u64)
            {
                let void = RecordHeader::void(place.generation, *sequence, acked_through, *length);
                segment.file.write_all_at(&void.encode(segment.log), u64::from(place.offset))?;
            }
            crate::failpoint::sync("torn", || segment.file.sync_data())
        };
        put_voids().map_err(|source| SpoolError::from_io(segment.path.clone(), source))?;
    }
    Ok(())
}
