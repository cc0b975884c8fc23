//! Opening a log: which slots there are, what in them counts, and a new slot to go on in.
//!
//! ```text
//! headers -> chain from the replay position -> cuts, from the last to the first -> batches, forwards -> sync all
//!         -> new slot, whose first record is CUT{where the last batch that counts ends}
//! ```
//!
//! * The first bad batch of a slot ends it if nothing after it proves that it was synced once: a torn tail, never
//!   confirmed. Otherwise the log is damaged in its middle, and the start is refused with the file and the offset.
//! * What a CUT cut off stays cut off, whatever it looks like later; and the log before a CUT must end where it says.
//! * A file whose header is bad is free, unless it holds a part of the log past the end that was found.
//! * Everything is read past the page cache and then synced: after a failed sync the cache may show what the device
//!   lacks, and after a kill it holds what no sync has covered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::message::place::Lsn;
use crate::storage::batch::{CUT, Cut, LOST, RECORD_HEADER_BYTES, records};
use crate::storage::disk::Disk;
use crate::storage::error::StoreError;
use crate::storage::log::append::{Class, Pending};
use crate::storage::log::commit::Committer;
use crate::storage::log::files::{name_of, number_of, shorten};
use crate::storage::log::options::{Epochs, LogOptions};
use crate::storage::log::scan::{FoundBatch, Scanner};
use crate::storage::log::slots::{SlotFacts, SlotFile, SlotUse, Slots};
use crate::storage::log::{LOG_DIR, Log, LogCounters};
use crate::storage::slot::{SLOT_HEADER_BYTES, SlotHeader};

/// Where a replay starts: everything before it is in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayFrom {
    /// The first slot.
    pub sequence: u64,
    /// The position of its first record.
    pub lsn: Lsn,
}

impl ReplayFrom {
    /// Before the first checkpoint: all of the log, if there is any.
    pub const START: Self = Self { sequence: 1, lsn: Lsn(0) };
}

/// A record found in the log.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// Where it starts.
    pub start: Lsn,
    /// Where it ends.
    pub end: Lsn,
    /// Its kind.
    pub kind: u8,
    /// Its body: a view into its whole batch, to be copied where it is to stay.
    pub body: Bytes,
}

/// What the person can do about damage that stops a start.
const REMEDY: &str = "`sluicemq fsck` tells what is affected, `sluicemq fsck --repair` sets it aside";

/// Takes records in order; what it does not understand it refuses.
pub type OnRecord<'a> = &'a mut dyn FnMut(Replayed) -> Result<(), StoreError>;

/// A place in the log's files.
type Position = (u64, u64);

/// A slot that is part of the log.
#[derive(Debug)]
pub(in crate::storage) struct FoundSlot {
    pub(in crate::storage) file: SlotFile,
    pub(in crate::storage) header: SlotHeader,
    pub(in crate::storage) cut: Option<Cut>,
    /// What a later slot leaves of it: batches from this offset on do not count.
    pub(in crate::storage) limit: u64,
}

#[derive(Debug, Default)]
struct FoundFiles {
    used: Vec<FoundSlot>,
    free: Vec<SlotFile>,
    /// Those whose header says nothing.
    bad: Vec<SlotFile>,
}

/// How far the log was followed.
#[derive(Debug)]
struct Progress {
    end: u64,
    /// After the last batch that counts.
    position: Position,
    /// Where a slot before the present one ended, and in which file: to be named when the next does not go on there.
    stopped: Option<(String, u64)>,
}

impl Log {
    /// Opens the log in its directory, or makes it. Every record from the replay position on goes to `on_record`, and
    /// when this returns all of them are durable.
    ///
    /// # Errors
    /// When the log is damaged other than by a torn tail, when a call to the disk fails, or `on_record` does.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        replay: ReplayFrom,
        on_record: OnRecord<'_>,
    ) -> Result<Self, StoreError> {
        disk.create_dir(LOG_DIR).map_err(StoreError::io("create", LOG_DIR))?;
        disk.sync_dir("").map_err(StoreError::io("sync", "the data directory"))?;
        let mut found = find_files(&*disk, replay)?;
        check_chain(&found.used, replay)?;
        find_cuts(&mut found.used)?;
        let mut slots = Slots::default();
        let mut progress =
            Progress { end: replay.lsn.0, position: (replay.sequence, SLOT_HEADER_BYTES), stopped: None };
        let before_first = SlotHeader {
            sequence: replay.sequence.saturating_sub(1),
            epoch: 0,
            epoch_before: 0,
            created_ms: 0,
        };
        let last = found.used.last().map_or(before_first, |slot| slot.header);
        for slot in found.used {
            slots.used.push_back(Arc::new(replay_slot(slot, &mut progress, on_record)?));
        }
        refuse_lost_headers(&found.bad, progress.end)?;
        for slot in &slots.used {
            let file = &slot.file.file;
            file.sync_data().map_err(StoreError::io("sync", file.name()))?;
        }
        disk.sync_dir(LOG_DIR).map_err(StoreError::io("sync", LOG_DIR))?;
        for mut file in found.free.into_iter().chain(found.bad) {
            // One that cannot be shortened is as good.
            let _ = shorten(&mut file, options.slot_bytes);
            slots.free.push_front(file);
        }
        let files = slots.used.iter().map(|slot| &slot.file).chain(&slots.free);
        slots.numbers = files.map(|file| file.number).collect();
        let epochs = Epochs::new(options.epoch_seed);
        let committer = Committer::new(last.sequence, last.epoch, progress.end, epochs);
        let log = Self::assemble(disk, options, slots, committer, progress.end);
        log.go_on(&progress)?;
        Ok(log)
    }

    fn assemble(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        slots: Slots,
        committer: Committer,
        end: u64,
    ) -> Self {
        Self {
            options,
            disk,
            pending: Mutex::new(Pending::new(end)),
            work: Condvar::new(),
            durable: AtomicU64::new(end),
            waiting: Mutex::default(),
            committer: Mutex::new(committer),
            preparing: Mutex::default(),
            slots: Mutex::new(slots),
            poison: OnceLock::new(),
            lacks_room: AtomicBool::new(false),
            held: AtomicBool::new(false),
            recovered_end: Lsn(end),
            counters: LogCounters::default(),
        }
    }

    /// Begins a new slot, and says in it where the log before it ends.
    fn go_on(&self, progress: &Progress) -> Result<(), StoreError> {
        let is_fresh = self.slots.lock().used.is_empty();
        if is_fresh {
            return self.seal_open_slot();
        }
        let (sequence, offset) = progress.position;
        let cut = Cut { sequence, offset, lsn: progress.end };
        self.append_raw(CUT, Class::Message, &cut.encode());
        self.commit_once()?;
        self.sync()
    }
}

pub(in crate::storage) fn corrupt(file: &str, offset: u64, problem: impl Into<String>) -> StoreError {
    StoreError::Corrupt { file: file.to_owned(), offset, problem: problem.into() }
}

/// Opens every slot's file and sorts it by what its header says.
fn find_files(disk: &dyn Disk, replay: ReplayFrom) -> Result<FoundFiles, StoreError> {
    let names = disk.list(LOG_DIR).map_err(StoreError::io("list", LOG_DIR))?;
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    let mut found = FoundFiles::default();
    let mut used = BTreeMap::new();
    for number in numbers {
        let name = name_of(number);
        let file = disk.open(&name).map_err(StoreError::io("open", &name))?;
        let len = file.len().map_err(StoreError::io("measure", &name))?;
        let page = Scanner::new(&*file, len.min(SLOT_HEADER_BYTES)).bytes(0, SLOT_HEADER_BYTES)?;
        let header = SlotHeader::decode(&page, &name)?;
        let file = SlotFile { number, file: Arc::from(file), len };
        match header {
            None => found.bad.push(file),
            Some(header) if header.sequence < replay.sequence => found.free.push(file),
            Some(header) => {
                let slot = FoundSlot { file, header, cut: None, limit: len };
                if let Some(other) = used.insert(header.sequence, slot) {
                    let problem = format!("it says it is slot {}, and so does {name}", header.sequence);
                    return Err(corrupt(other.file.file.name(), 0, problem));
                }
            }
        }
    }
    found.used = used.into_values().collect();
    Ok(found)
}

/// The slots must be all from the replay position on, each begun behind the one before it.
fn check_chain(used: &[FoundSlot], replay: ReplayFrom) -> Result<(), StoreError> {
    let mut wanted = replay.sequence;
    let mut epoch_before = None;
    for slot in used {
        let (header, name) = (&slot.header, slot.file.file.name());
        if header.sequence != wanted {
            let problem =
                format!("slot {wanted} of the log is missing, the next one is {}: {REMEDY}", header.sequence);
            return Err(corrupt(name, 0, problem));
        }
        if epoch_before.is_some_and(|epoch| epoch != header.epoch_before) {
            let problem =
                format!("slot {wanted} does not follow the one before it: it is of another history");
            return Err(corrupt(name, 0, problem));
        }
        epoch_before = Some(header.epoch);
        wanted = wanted.saturating_add(1);
    }
    if used.is_empty() && replay != ReplayFrom::START {
        return Err(corrupt(
            LOG_DIR,
            0,
            format!("slot {wanted} of the log is missing, where the replay starts: {REMEDY}"),
        ));
    }
    Ok(())
}

/// Reads the CUT that may begin each slot; what a later one cut off is not read, cuts included.
pub(in crate::storage) fn find_cuts(used: &mut [FoundSlot]) -> Result<(), StoreError> {
    let mut limit: Position = (u64::MAX, 0);
    for slot in used.iter_mut().rev() {
        let sequence = slot.header.sequence;
        if limit.0 <= sequence {
            slot.limit = if limit.0 < sequence { 0 } else { limit.1.min(slot.limit) };
        }
        let mut scanner = Scanner::new(&*slot.file.file, slot.file.len);
        let first = scanner.batch(SLOT_HEADER_BYTES, slot.limit, Some(slot.header.epoch))?;
        slot.cut = first.and_then(|batch| cut_of(&batch));
        if let Some(cut) = slot.cut {
            let name = slot.file.file.name();
            if (cut.sequence, cut.offset) >= (sequence, SLOT_HEADER_BYTES) {
                return Err(corrupt(name, SLOT_HEADER_BYTES, "the log is cut behind the cut"));
            }
            limit = limit.min((cut.sequence, cut.offset));
        }
    }
    Ok(())
}

fn cut_of(batch: &FoundBatch) -> Option<Cut> {
    let first = records(batch.payload.clone()).next()?.ok()?;
    if first.kind == CUT { Cut::decode(&first.body) } else { None }
}

/// Delivers what counts in a slot.
fn replay_slot(
    slot: FoundSlot,
    progress: &mut Progress,
    on_record: OnRecord<'_>,
) -> Result<SlotUse, StoreError> {
    let FoundSlot { file, header, cut, limit } = slot;
    let name = file.file.name().to_owned();
    if let Some(cut) = cut.filter(|cut| cut.lsn != progress.end) {
        let (file, offset) = progress.stopped.take().unwrap_or((name, SLOT_HEADER_BYTES));
        let problem =
            format!("the log ends at {} here, and went on to {} once: {REMEDY}", progress.end, cut.lsn);
        return Err(corrupt(&file, offset, problem));
    }
    let mut facts = SlotFacts::default();
    let mut batches = Vec::new();
    let mut scanner = Scanner::new(&*file.file, file.len);
    let mut offset = SLOT_HEADER_BYTES;
    while let Some(batch) = scanner.batch(offset, limit, Some(header.epoch))? {
        if batch.header.first_lsn != progress.end {
            break;
        }
        deliver(&batch, &name, offset, &mut facts, on_record)?;
        batches.push((batch.header.first_lsn, offset, batch.header.end_lsn()));
        progress.end = batch.header.end_lsn();
        offset += batch.header.padded_bytes();
        progress.position = (header.sequence, offset);
    }
    // What lies past a cut says nothing; whether all before it is there, the cut itself tells.
    let is_cut = limit < file.len;
    if !is_cut && scanner.proves_more(offset, 0, Some(header.epoch))? {
        let at = if offset == SLOT_HEADER_BYTES { progress.stopped.take() } else { None };
        let (file, offset) = at.unwrap_or((name, offset));
        let problem = format!(
            "the log is damaged here, at position {}, and what follows is whole: {REMEDY}",
            progress.end
        );
        return Err(corrupt(&file, offset, problem));
    }
    progress.stopped = Some((name, offset));
    let slot = SlotUse::new(file, header.sequence, header.epoch, progress.end, facts);
    batches.iter().for_each(|&(first, offset, end)| slot.contents.lock().add_batch(first, offset, end));
    Ok(slot)
}

pub(in crate::storage) fn deliver(
    batch: &FoundBatch,
    file: &str,
    offset: u64,
    facts: &mut SlotFacts,
    on_record: OnRecord<'_>,
) -> Result<(), StoreError> {
    let first_lsn = batch.header.first_lsn;
    let mut count = 0;
    for record in records(batch.payload.clone()) {
        let record = record.map_err(|at| {
            corrupt(file, offset, format!("the record at position {} is of an unknown form", first_lsn + at))
        })?;
        count += 1;
        if ![CUT, LOST].contains(&record.kind) {
            let start = Lsn(first_lsn + record.offset);
            let end = Lsn(start.0 + RECORD_HEADER_BYTES + record.body.len() as u64);
            facts.note(start, record.kind, &record.body);
            on_record(Replayed { start, end, kind: record.kind, body: record.body })?;
        }
    }
    if count != batch.header.records {
        return Err(corrupt(file, offset, "the batch has another number of records than it says"));
    }
    Ok(())
}

/// A file without a header is no part of the log, unless it has what the log lacks.
fn refuse_lost_headers(bad: &[SlotFile], end: u64) -> Result<(), StoreError> {
    for file in bad {
        let mut scanner = Scanner::new(&*file.file, file.len);
        if scanner.proves_more(SLOT_HEADER_BYTES, end, None)? {
            let problem =
                format!("the header is damaged, and the file holds the log past position {end}: {REMEDY}");
            return Err(corrupt(file.file.name(), 0, problem));
        }
    }
    Ok(())
}
