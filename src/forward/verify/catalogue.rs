//! Which of some objects a destination lists: asked before the first attempt, when a UID there is
//! somebody else's, and after the last, when it is proof. By series and in lists of UIDs
//! (PS3.4 §C.2.2.2.2), which not every archive reads: whether this one does is found out once.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::find::Find;
use super::qido::Qido;
use crate::dicom::Uid;
use crate::spool::SpoolEntry;

/// Why there is no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// It does not offer this way of asking.
    NotOffered(String),
    Failed(String),
}

/// Whether a destination reads lists of UIDs, as far as that is known.
#[derive(Debug, Default)]
pub struct Lists(AtomicU8);

impl Lists {
    fn known(&self) -> Option<bool> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            known => Some(known == 1),
        }
    }

    fn learn(&self, read: bool) {
        self.0.store(if read { 1 } else { 2 }, Ordering::Relaxed);
    }
}

/// Study and series.
pub type Series<'a> = (&'a Uid, &'a Uid);

/// Whom to ask.
pub enum Catalogue<'a> {
    Dimse(Find<'a>),
    Web(Qido<'a>),
}

impl Catalogue<'_> {
    /// UIDs in one question.
    fn longest_list(&self) -> usize {
        match self {
            Catalogue::Dimse(_) => 50,
            // Its answer stays far below the limit, its URL short.
            Catalogue::Web(_) => 20,
        }
    }

    async fn list(&mut self, series: Series<'_>, instances: &[&Uid]) -> Result<Vec<Uid>, Unanswered> {
        match self {
            Catalogue::Dimse(find) => find.list(series, instances).await,
            Catalogue::Web(qido) => qido.list(series, instances).await,
        }
    }

    /// At least one instance of the series, if there is any.
    async fn some_of(&mut self, series: Series<'_>) -> Result<Vec<Uid>, Unanswered> {
        match self {
            Catalogue::Dimse(find) => find.list(series, &[]).await,
            Catalogue::Web(qido) => qido.some_of(series).await,
        }
    }

    /// SOP Instance UIDs of `entries` that are listed, and perhaps others.
    pub async fn listed(
        self,
        lists: &Lists,
        entries: &[Arc<SpoolEntry>],
    ) -> Result<HashSet<Uid>, Unanswered> {
        let mut wanted: BTreeMap<Series<'_>, Vec<&Uid>> = BTreeMap::new();
        for entry in entries {
            let key = &entry.key;
            let series = wanted.entry((&key.study_instance_uid, &key.series_instance_uid)).or_default();
            series.push(&key.sop_instance_uid);
        }
        let longest = self.longest_list();
        let mut asker = Asker { catalogue: self, lists, found: HashSet::new() };
        for (series, instances) in wanted {
            for list in instances.chunks(longest) {
                asker.look_up(series, list).await?;
            }
        }
        Ok(asker.found)
    }
}

struct Asker<'a> {
    catalogue: Catalogue<'a>,
    lists: &'a Lists,
    found: HashSet<Uid>,
}

impl Asker<'_> {
    async fn look_up(&mut self, series: Series<'_>, wanted: &[&Uid]) -> Result<(), Unanswered> {
        if wanted.len() > 1 && self.lists.known() == Some(false) {
            return self.one_by_one(series, wanted).await;
        }
        self.ask_for(series, wanted).await?;
        let all_found = wanted.iter().all(|uid| self.found.contains(*uid));
        if wanted.len() > 1 && all_found {
            self.lists.learn(true);
        }
        if wanted.len() == 1 || all_found || self.lists.known() == Some(true) {
            return Ok(());
        }
        match self.reads_lists(series, wanted[0]).await? {
            Some(false) => self.one_by_one(series, wanted).await,
            Some(true) | None => Ok(()),
        }
    }

    /// What does not find a UID that is there, at the end of a list, has not read the list. `None`
    /// where nothing of the series is there.
    async fn reads_lists(&mut self, series: Series<'_>, other: &Uid) -> Result<Option<bool>, Unanswered> {
        let there = self.catalogue.some_of(series).await?;
        let known = there.iter().find(|uid| *uid != other).cloned();
        self.found.extend(there);
        let Some(known) = known else { return Ok(None) };
        let read = self.catalogue.list(series, &[other, &known]).await?.contains(&known);
        self.lists.learn(read);
        Ok(Some(read))
    }

    async fn one_by_one(&mut self, series: Series<'_>, wanted: &[&Uid]) -> Result<(), Unanswered> {
        for uid in wanted {
            if !self.found.contains(*uid) {
                self.ask_for(series, &[uid]).await?;
            }
        }
        Ok(())
    }

    async fn ask_for(&mut self, series: Series<'_>, wanted: &[&Uid]) -> Result<(), Unanswered> {
        let listed = self.catalogue.list(series, wanted).await?;
        self.found.extend(listed);
        Ok(())
    }
}
