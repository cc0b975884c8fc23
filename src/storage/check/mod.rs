//! The whole data directory read without a broker: what is whole, what is damaged, whose messages are gone; and its
//! repair, which sets what is damaged aside so that a broker starts again with everything else.
//!
//! ```text
//! tables -> log (`log`: batches, holes) -> who has which messages (`fold`) -> packs (`packs`) -> report
//!                                                       repair -> copies into corrupt/ (`quarantine`), then fills,
//!                                                                 settles and rewrites (`repair`)
//! ```
//!
//! It reads with the code that a start reads with, and changes nothing unless it is asked to repair. What is whole is
//! never given up, and what is given up is copied first.

mod fold;
mod log;
mod packs;
mod quarantine;
mod repair;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::message::place::QueueId;
use crate::storage::check::fold::{Folded, Folding};
use crate::storage::check::log::Survey;
use crate::storage::check::packs::Packs;
use crate::storage::disk::Disk;
use crate::storage::error::StoreError;
use crate::storage::log::{LOG_DIR, ReplayFrom};
use crate::storage::meta::{META_FILE, Meta, MetaState, refuse_if_lost};

pub use crate::storage::check::quarantine::CORRUPT_DIR;

/// Is told how far a check has come.
pub trait Watch {
    /// It begins with this part of the data, about so many bytes.
    fn begin(&mut self, part: &'static str, bytes: u64);
    /// So many more are read.
    fn advance(&mut self, bytes: u64);
}

/// What a data directory holds.
#[derive(Debug, Default)]
pub struct Report {
    /// All durable queues, by virtual host and name.
    pub queues: Vec<QueueReport>,
    /// What is damaged, in the order in which it was found.
    pub damage: Vec<Damage>,
    /// What the damage costs beside what it says itself.
    pub notes: Vec<String>,
    /// Files of packs that the tables do not know: a crash leaves them, and a start removes them.
    pub unknown_packs: Vec<u64>,
    /// Slots of the log in use.
    pub slots: u64,
    /// Batches in them.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Packs that the tables know.
    pub packs: u64,
}

/// One queue's messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueReport {
    /// Its virtual host.
    pub vhost: String,
    /// Its name.
    pub name: String,
    /// Messages that live and are whole.
    pub messages: u64,
    /// Their bodies' bytes, about.
    pub body_bytes: u64,
    /// Numbers of messages that live and cannot be read.
    pub damaged: Vec<Range<u64>>,
    /// Numbers that a hole of the log took, if they were persistent messages.
    pub missing: Vec<Range<u64>>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where, what, and what it costs: a sentence.
    pub problem: String,
    /// Whether a repair can set it aside.
    pub can_be_set_aside: bool,
}

/// A check that was made, and can be followed by a repair.
#[derive(Debug)]
pub struct Check {
    disk: Arc<dyn Disk>,
    meta: Option<Meta>,
    state: MetaState,
    fold: Folding,
    survey: Survey,
    packs: Packs,
    report: Report,
}

impl Check {
    /// Reads everything. The directory is locked by the caller.
    ///
    /// # Errors
    /// What the disk says, or [`StoreError::Newer`]. Damage is in the report; only the tables' is an error too,
    /// because without them nothing can be told.
    pub fn run(disk: Arc<dyn Disk>, watch: &mut dyn Watch) -> Result<Self, StoreError> {
        let mut meta = open_meta(&disk)?;
        let mut fold = Folding::default();
        let mut state = MetaState { replay: ReplayFrom::START, next_queue_id: 1, clean: None };
        if let Some(meta) = &mut meta {
            state = meta.load(&mut |loaded| fold.fold.load(loaded))?;
            fold.fold.next_queue = fold.fold.next_queue.max(state.next_queue_id);
        }
        let mut survey = log::survey(&*disk, state.replay, &mut fold, watch)?;
        fold.close();
        let packs = packs::check(&*disk, &fold, watch)?;
        let is_older = state.replay == ReplayFrom::START && !survey.headers.is_empty();
        if is_older && !packs.unknown.is_empty() && survey.fatal.is_none() {
            // An empty log would make a start remove all packs.
            let problem = "it knows nothing of packs that are there, and of the log only its end: it is of another time";
            survey.fatal = Some(StoreError::Corrupt {
                file: META_FILE.to_owned(),
                offset: 0,
                problem: problem.to_owned(),
            });
        }
        let report = Report::new(&fold, &survey, &packs);
        Ok(Self { disk, meta, state, fold, survey, packs, report })
    }

    /// What was found.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// What was found, when nothing is to be repaired. The tables are closed.
    pub fn into_report(self) -> Report {
        self.report
    }

    /// Sets aside what is damaged and can be. What was done, in sentences.
    ///
    /// # Errors
    /// What the disk says. It can be tried again, after another check.
    pub fn repair(self) -> Result<Vec<String>, StoreError> {
        repair::repair(self)
    }
}

/// The tables; none in a directory where no broker came so far.
fn open_meta(disk: &Arc<dyn Disk>) -> Result<Option<Meta>, StoreError> {
    match disk.open(META_FILE) {
        Ok(_) => Meta::open(Arc::clone(disk)).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => refuse_if_lost(&**disk).map(|()| None),
        Err(error) => Err(StoreError::io("open", META_FILE)(error)),
    }
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.damage.is_empty()
    }

    fn new(fold: &Folding, survey: &Survey, packs: &Packs) -> Self {
        let mut report = Self {
            unknown_packs: packs.unknown.clone(),
            slots: survey.slots,
            batches: survey.batches,
            records: fold.records,
            packs: packs.count,
            ..Self::default()
        };
        report.add_log(fold, survey);
        report.add_packs(fold, packs);
        report.queues =
            fold.fold.queues.iter().map(|(id, queue)| QueueReport::new(*id, queue, packs)).collect();
        report.queues.sort_by(|one, two| (&one.vhost, &one.name).cmp(&(&two.vhost, &two.name)));
        report
    }

    fn add(&mut self, problem: String) {
        self.damage.push(Damage { problem, can_be_set_aside: true });
    }

    fn add_log(&mut self, fold: &Folding, survey: &Survey) {
        for lost in &survey.headers {
            let (file, sequence) = (&lost.file, lost.header.sequence);
            self.add(if lost.is_missing {
                format!("{LOG_DIR}: slot {sequence} of the log is gone; an empty one takes its place as {file}")
            } else {
                format!("{file} at byte 0: the header is damaged; it can only be slot {sequence}, and is whole otherwise")
            });
        }
        for (at, hole) in survey.holes.iter().enumerate() {
            let from = &hole.from;
            let lost = fold.fold.queues.values().filter_map(|queue| {
                let lost = queue.lost.iter().filter(|lost| lost.hole == at);
                let numbers: Vec<_> = lost.map(|lost| lost.numbers.clone()).collect();
                (!numbers.is_empty()).then_some((queue, numbers))
            });
            self.add(format!(
                "{} at byte {}: the log's positions {} to {} are damaged, up to {} at byte {}{}",
                from.file,
                from.offset,
                hole.start.0,
                hole.end.0,
                hole.to.file,
                hole.to.offset,
                losses(lost, "; with them, unless these numbers were transient messages: "),
            ));
        }
        // A repair has nothing to do for them: a start ignores what concerns an unknown queue.
        self.notes.extend(fold.orphans.iter().map(|(queue, numbers)| {
            let (queue, numbers) = (queue.0, said(&ranges(numbers)));
            format!("the declaration of queue number {queue} is lost, and with it its messages {numbers}")
        }));
        for broken in &fold.broken {
            self.add(broken.to_string());
        }
        if let Some(fatal) = &survey.fatal {
            let problem = format!("{fatal}; what follows in the log says nothing");
            self.damage.push(Damage { problem, can_be_set_aside: false });
        }
    }

    fn add_packs(&mut self, fold: &Folding, packs: &Packs) {
        for pack in &packs.damaged {
            if let Some(unreadable) = &pack.unreadable {
                self.add(format!("{unreadable}; a broker can read nothing of it"));
            }
            for damaged in &pack.extents {
                let numbers = damaged.numbers();
                let queue = fold.fold.queues.get(&damaged.queue).map(|queue| (queue, ranges(&numbers)));
                let problem = damaged.problems.first().map_or_else(
                    || {
                        format!(
                            "pack {} at byte {}: messages are not there",
                            pack.number, damaged.extent.at.offset
                        )
                    },
                    ToString::to_string,
                );
                self.add(format!("{problem}{}", losses(queue.into_iter(), "; lost: ")));
            }
        }
    }
}

/// Whose messages are lost, in words.
fn losses<'a>(lost: impl Iterator<Item = (&'a Folded, Vec<Range<u64>>)>, before: &str) -> String {
    let each: Vec<_> = lost
        .map(|(queue, numbers)| format!("{} of {} in {}", said(&numbers), queue.name, queue.vhost))
        .collect();
    if each.is_empty() { String::new() } else { format!("{before}{}", each.join(", ")) }
}

/// Numbers as people write them.
pub fn said(numbers: &[Range<u64>]) -> String {
    let each = numbers.iter().map(|range| match range.end.saturating_sub(range.start) {
        1 => range.start.to_string(),
        _ => format!("{}-{}", range.start, range.end.saturating_sub(1)),
    });
    each.collect::<Vec<_>>().join(", ")
}

fn ranges(numbers: &RoaringTreemap) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some(last) if last.end == number => last.end = number + 1,
            _ => ranges.push(number..number + 1),
        }
    }
    ranges
}

impl QueueReport {
    fn new(id: QueueId, queue: &Folded, packs: &Packs) -> Self {
        let mut damaged = queue.broken.clone();
        let of_queue =
            packs.damaged.iter().flat_map(|pack| &pack.extents).filter(|damaged| damaged.queue == id);
        of_queue.for_each(|extent| damaged |= extent.numbers());
        let (messages, body_bytes) = queue.size();
        let whole = messages.saturating_sub(damaged.len());
        Self {
            vhost: queue.vhost.clone(),
            name: queue.name.clone(),
            messages: whole,
            body_bytes: body_bytes / messages.max(1) * whole,
            damaged: ranges(&damaged),
            missing: queue.lost.iter().map(|lost| lost.numbers.clone()).collect(),
        }
    }
}
