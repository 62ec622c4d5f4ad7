//! What was acknowledged and can't be read any more. Each object is told of once, in the log, and
//! counted until it is received anew or a person has seen to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::entry::EntryId;
use super::segment_head::in_file_at;
use super::state::EntryState;
use crate::failpoint;

/// So many are counted, and no more; lists name all.
const MOST: usize = 1_000_000;
/// Files in `review/` that name losses of which the projection knows nothing any more.
const LIST: &str = "lost-";
/// Between the first and the last number of a stretch.
const TO: &str = " to ";

/// Whether the disk itself can't read it: a bad sector, most often. The page cache makes EIO of all of these; past it
/// the kernel says what the device said (`blk_status_to_errno`).
pub fn is_unreadable(error: &io::Error) -> bool {
    const ERRORS: [Errno; 6] =
        [Errno::IO, Errno::NODATA, Errno::NOLINK, Errno::REMOTEIO, Errno::TIMEDOUT, Errno::ILSEQ];
    ERRORS.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[derive(Debug)]
pub struct Damage {
    review: PathBuf,
    known: Mutex<BTreeSet<EntryId>>,
    listed: Mutex<Listed>,
}

/// What the lists of `review/` name.
#[derive(Debug, Default)]
struct Listed {
    entries: BTreeSet<EntryId>,
    /// Of which only the numbers are known.
    stretches: Vec<RangeInclusive<EntryId>>,
    count: u64,
}

impl Damage {
    /// With what recovery has found, and what was listed before.
    pub fn open(review: &Path, found: &[EntryId]) -> io::Result<Damage> {
        let known = found.iter().take(MOST).copied().collect();
        let damage = Damage { review: review.to_owned(), known: Mutex::new(known), listed: Mutex::default() };
        damage.lists()?;
        Ok(damage)
    }

    /// What the lists in `review/` name, each object once; counted anew with each look, as a person removes them.
    pub fn lists(&self) -> io::Result<Vec<Missing>> {
        let mut missing = BTreeSet::new();
        for file in std::fs::read_dir(&self.review)? {
            let (path, name) = file.map(|file| (file.path(), file.file_name()))?;
            if name.to_string_lossy().starts_with(LIST) && path.extension().is_some_and(|end| end == "tsv") {
                let bytes = std::fs::read(&path).map_err(in_file_at(&path))?;
                let text = String::from_utf8_lossy(&bytes);
                missing.extend(text.lines().filter(|line| !line.trim().is_empty()).map(Missing::of_line));
            }
        }
        let named: BTreeSet<EntryId> =
            missing.iter().filter(|missing| missing.is_named()).map(|missing| missing.entry).collect();
        missing.retain(|missing| missing.is_named() || !named.contains(&missing.entry));
        let mut listed = Listed::default();
        for Missing { entry, through, .. } in &missing {
            listed.count += through.0.saturating_sub(entry.0) + 1;
            match entry == through {
                true => _ = listed.entries.insert(*entry),
                false => listed.stretches.push(*entry..=*through),
            }
        }
        *self.listed.lock() = listed;
        Ok(missing.into_iter().collect())
    }

    /// Lists what only another still knew of. The same list is written once, however often it is asked for.
    pub fn list(&self, missing: &[Missing]) -> io::Result<()> {
        let lines: String = missing.iter().map(Missing::line).collect();
        write(&self.review, &format!("{LIST}{:08x}.tsv", crc32c::crc32c(lines.as_bytes())), &lines)?;
        self.lists().map(drop)
    }

    pub fn note(&self, entry: EntryId, detail: &str) {
        let mut known = self.known.lock();
        if known.len() >= MOST || !known.insert(entry) {
            return;
        }
        tracing::error!(%entry, detail, "an acknowledged object can't be read any more; see `relaypacs spool verify`");
        if known.len() == MOST {
            tracing::error!(
                "no more damaged objects than {MOST} are counted; `relaypacs spool verify` finds the others"
            );
        }
    }

    pub fn has(&self, entry: EntryId) -> bool {
        self.known.lock().contains(&entry)
    }

    /// Whether the log lost it, and all that is known of it is in a list.
    pub fn is_listed(&self, entry: EntryId) -> bool {
        let listed = self.listed.lock();
        listed.entries.contains(&entry) || listed.stretches.iter().any(|stretch| stretch.contains(&entry))
    }

    /// It was freed: another copy is there.
    pub fn forget(&self, entry: EntryId) {
        self.known.lock().remove(&entry);
    }

    pub fn count(&self) -> u64 {
        self.known.lock().len() as u64 + self.listed.lock().count
    }
}

/// An acknowledged object that nothing here holds any more; or several side by side, of which only the numbers are known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    pub entry: EntryId,
    /// The last of them.
    pub through: EntryId,
    /// Empty where nothing but the number is known.
    pub sop_instance_uid: String,
    pub data_set_sha256: String,
}

impl Missing {
    fn is_named(&self) -> bool {
        !self.sop_instance_uid.is_empty()
    }

    pub fn is_of(&self, state: &EntryState) -> bool {
        self.sop_instance_uid == state.sop_instance_uid.as_str()
            && self.data_set_sha256 == state.data_set_sha256.to_string()
    }

    fn line(&self) -> String {
        let Missing { entry, through, sop_instance_uid, data_set_sha256 } = self;
        match through == entry {
            true => format!("{entry}\t{sop_instance_uid}\t{data_set_sha256}\t\n"),
            false => format!("{entry}{TO}{through}\t{sop_instance_uid}\t{data_set_sha256}\t\n"),
        }
    }

    fn of_line(line: &str) -> Missing {
        let mut words = line.split('\t');
        let mut word = || words.next().unwrap_or_default();
        let numbers = word();
        let (first, last) = numbers.split_once(TO).unwrap_or((numbers, numbers));
        let number = |text: &str| EntryId(text.trim().parse().unwrap_or(0));
        Missing {
            entry: number(first),
            through: number(last),
            sop_instance_uid: word().to_owned(),
            data_set_sha256: word().to_owned(),
        }
    }
}

/// Lists losses in `review/`: entry, SOP Instance UID, SHA-256, and where each was delivered.
pub fn list(review: &Path, lost: &[EntryState]) -> io::Result<()> {
    let mut lines = String::new();
    for state in lost {
        let deliveries: Vec<String> = state
            .deliveries
            .iter()
            .map(|delivery| format!("{}:{:?}", delivery.destination, delivery.state))
            .collect();
        lines += &format!(
            "{}\t{}\t{}\t{}\n",
            state.id,
            state.sop_instance_uid,
            state.data_set_sha256,
            deliveries.join(",").to_lowercase()
        );
    }
    write(review, &new_list(), &lines)
}

fn new_list() -> String {
    format!("{LIST}{}.tsv", ulid::Ulid::new())
}

/// Durable: what it names is known from nowhere else.
fn write(review: &Path, name: &str, lines: &str) -> io::Result<()> {
    let (path, unfinished) = (review.join(name), review.join(format!("{name}.new")));
    let mut file = File::create(&unfinished)?;
    file.write_all(lines.as_bytes())?;
    failpoint::sync("loss_list", || file.sync_all())?;
    std::fs::rename(&unfinished, &path)?;
    failpoint::sync("loss_list", || File::open(review)?.sync_all())
}

/// Records that were acknowledged and of which a replay could read nothing, not even what they were: by their numbers,
/// which are those of entries where they were objects as they first came, and not copies.
#[derive(Debug, Default)]
pub struct Unreadable {
    /// The last number of each stretch by its first.
    stretches: BTreeMap<u64, u64>,
    /// The list's name, once there is one.
    list: Option<String>,
    has_changed: bool,
}

impl Unreadable {
    /// Beyond those noted before.
    pub fn note(&mut self, numbers: RangeInclusive<u64>) {
        self.stretches.insert(*numbers.start(), *numbers.end());
        self.has_changed = true;
    }

    /// Nothing is missing of this entry after all.
    pub fn forget(&mut self, entry: EntryId) {
        let EntryId(number) = entry;
        let Some((&first, &last)) = self.stretches.range(..=number).next_back() else { return };
        if number > last {
            return;
        }
        self.stretches.remove(&first);
        if first < number {
            self.stretches.insert(first, number - 1);
        }
        if number < last {
            self.stretches.insert(number + 1, last);
        }
        self.has_changed = true;
    }

    pub fn count(&self) -> u64 {
        self.stretches.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Brings the list in `review/` up to date.
    pub fn save(&mut self, review: &Path) -> io::Result<()> {
        if !std::mem::take(&mut self.has_changed) {
            return Ok(());
        }
        let name = self.list.get_or_insert_with(new_list);
        let missing = |(first, last): (&u64, &u64)| Missing {
            entry: EntryId(*first),
            through: EntryId(*last),
            sop_instance_uid: String::new(),
            data_set_sha256: String::new(),
        };
        let lines: String = self.stretches.iter().map(|stretch| missing(stretch).line()).collect();
        write(review, name, &lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_read_is_counted_and_known_but_for_what_is_there_after_all() {
        let review = tempfile::tempdir().unwrap();
        let mut unreadable = Unreadable::default();
        unreadable.note(11..=20);
        unreadable.note(30..=30);
        for found in [15, 11, 20, 29, 30] {
            unreadable.forget(EntryId(found));
        }
        assert_eq!(unreadable.count(), 7);
        unreadable.save(review.path()).unwrap();
        let damage = Damage::open(review.path(), &[]).unwrap();
        assert_eq!(damage.count(), 7);
        let listed: Vec<u64> = (0..40).filter(|number| damage.is_listed(EntryId(*number))).collect();
        assert_eq!(listed, [12, 13, 14, 16, 17, 18, 19]);
        assert_eq!(damage.lists().unwrap().len(), 2, "a line for a stretch");
    }

    #[test]
    fn who_names_an_object_takes_the_place_of_its_bare_number_and_a_list_is_never_written_over() {
        let review = tempfile::tempdir().unwrap();
        let mut unreadable = Unreadable::default();
        unreadable.note(5..=5);
        unreadable.save(review.path()).unwrap();
        let damage = Damage::open(review.path(), &[]).unwrap();
        let named = |uid: &str| Missing {
            entry: EntryId(5),
            through: EntryId(5),
            sop_instance_uid: uid.into(),
            data_set_sha256: "00".into(),
        };
        for uid in ["1.2", "1.2", "1.3"] {
            damage.list(&[named(uid)]).unwrap();
        }
        assert_eq!(damage.lists().unwrap(), [named("1.2"), named("1.3")]);
    }
}
