//! Follows the log as a start does, and goes on behind what is damaged: what is whole goes to the fold, and each hole
//! is measured so that it can be filled.
//!
//! A hole is the part of the stream that no whole batch holds although something whole, later, proves that it was
//! there. What cannot be told from a torn tail is no hole, here as at a start.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::message::place::Lsn;
use crate::storage::batch::BATCH_HEADER_BYTES;
use crate::storage::check::Watch;
use crate::storage::disk::{Disk, DiskFile, PAGE_BYTES};
use crate::storage::error::StoreError;
use crate::storage::log::files::{name_of, number_of};
use crate::storage::log::recover::{FoundSlot, corrupt, deliver, find_cuts};
use crate::storage::log::scan::{FoundBatch, Scanner};
use crate::storage::log::slots::{SlotFacts, SlotFile};
use crate::storage::log::{LOG_DIR, ReplayFrom, Replayed};
use crate::storage::slot::{SLOT_HEADER_BYTES, SlotHeader};

/// More slots than this cannot be missing: a window never has as many.
const MISSING_MAX: u64 = 4096;

/// What the log says, in its order.
pub(super) trait Reader {
    /// A record of a whole batch; where it lies.
    fn record(&mut self, record: &Replayed, file: &str, offset: u64) -> Result<(), StoreError>;
    /// A part is missing here. `damaged` is what lies in its place.
    fn hole(&mut self, hole: &Hole, damaged: &[Vec<u8>]);
}

/// A place in the log's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) sequence: u64,
    pub(super) file: String,
    pub(super) offset: u64,
}

/// A part of the stream that is gone.
#[derive(Clone, Debug)]
pub(super) struct Hole {
    /// Where the last whole batch before it ends.
    pub(super) from: Spot,
    /// Where what follows it starts.
    pub(super) to: Spot,
    /// The first position that is gone.
    pub(super) start: Lsn,
    /// The first position after it.
    pub(super) end: Lsn,
    /// How much of the file where it starts may be written.
    pub(super) room_end: Option<u64>,
    /// The files that lie wholly or partly in it: name, and which bytes.
    pub(super) ranges: Vec<(String, u64, u64)>,
}

/// A slot whose header is gone, and can be told from its neighbours.
#[derive(Clone, Debug)]
pub(super) struct LostHeader {
    /// The file; one that is to be made when there is none.
    pub(super) file: String,
    pub(super) is_missing: bool,
    pub(super) header: SlotHeader,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) slots: u64,
    pub(super) batches: u64,
    pub(super) bytes: u64,
    pub(super) headers: Vec<LostHeader>,
    pub(super) holes: Vec<Hole>,
    /// What keeps the rest of the log from being followed; nothing here can repair it.
    pub(super) fatal: Option<StoreError>,
    /// The numbers of all files there are.
    pub(super) numbers: Vec<u32>,
    /// The longest file.
    pub(super) slot_bytes: u64,
}

#[derive(Debug, Default)]
struct Files {
    used: BTreeMap<u64, FoundSlot>,
    /// Those whose header says nothing.
    bad: Vec<SlotFile>,
}

struct Walk<'a> {
    survey: Survey,
    end: u64,
    stop: Spot,
    stop_limit: Option<u64>,
    /// Files passed since the stop, and up to where they count.
    passed: Vec<(String, Arc<dyn DiskFile>, u64)>,
    reader: &'a mut dyn Reader,
    watch: &'a mut dyn Watch,
}

/// Follows the log from `replay` on.
///
/// # Errors
/// What the disk says; damage is in what is returned.
pub(super) fn survey(
    disk: &dyn Disk,
    replay: ReplayFrom,
    reader: &mut dyn Reader,
    watch: &mut dyn Watch,
) -> Result<Survey, StoreError> {
    let mut survey = Survey::default();
    let mut files = match sort_files(disk, replay, &mut survey) {
        Ok(files) => files,
        Err(error @ StoreError::Corrupt { .. }) => return Ok(Survey { fatal: Some(error), ..survey }),
        Err(error) => return Err(error),
    };
    if let Err(error) = complete(&mut files, replay, &mut survey) {
        return told(error, survey);
    }
    let mut used: Vec<FoundSlot> = files.used.into_values().collect();
    if let Err(error) = find_cuts(&mut used) {
        return told(error, survey);
    }
    watch.begin("log", used.iter().map(|slot| slot.file.len).sum());
    survey.slots = used.len() as u64;
    let lost = survey.headers.iter().find(|lost| lost.header.sequence == replay.sequence);
    let first = lost.map(|lost| lost.file.clone());
    let first = first.or_else(|| used.first().map(|slot| slot.file.file.name().to_owned()));
    let stop = Spot { sequence: replay.sequence, file: first.unwrap_or_default(), offset: SLOT_HEADER_BYTES };
    let mut walk =
        Walk { survey, end: replay.lsn.0, stop, stop_limit: None, passed: Vec::new(), reader, watch };
    let mut last =
        SlotHeader { sequence: replay.sequence.saturating_sub(1), epoch: 0, epoch_before: 0, created_ms: 0 };
    for slot in &used {
        last = slot.header;
        if let Err(error) = walk.slot(slot) {
            return told(error, walk.survey);
        }
    }
    let mut bad = files.bad;
    while let Some(slot) = take_tail(&mut bad, walk.end, &last)? {
        last = slot.header;
        walk.survey.headers.push(LostHeader {
            file: slot.file.file.name().to_owned(),
            is_missing: false,
            header: slot.header,
        });
        if let Err(error) = walk.slot(&slot) {
            return told(error, walk.survey);
        }
    }
    Ok(walk.survey)
}

/// Damage that stops the survey is a part of it.
fn told(error: StoreError, survey: Survey) -> Result<Survey, StoreError> {
    match error {
        StoreError::Corrupt { .. } => Ok(Survey { fatal: Some(error), ..survey }),
        other => Err(other),
    }
}

fn sort_files(disk: &dyn Disk, replay: ReplayFrom, survey: &mut Survey) -> Result<Files, StoreError> {
    let names = match disk.list(LOG_DIR) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        names => names.map_err(StoreError::io("list", LOG_DIR))?,
    };
    survey.numbers = names.iter().filter_map(|name| number_of(name)).collect();
    survey.numbers.sort_unstable();
    let mut files = Files::default();
    for &number in &survey.numbers {
        let name = name_of(number);
        let file = disk.open(&name).map_err(StoreError::io("open", &name))?;
        let len = file.len().map_err(StoreError::io("measure", &name))?;
        survey.slot_bytes = survey.slot_bytes.max(len);
        let page = Scanner::new(&*file, len.min(SLOT_HEADER_BYTES)).bytes(0, SLOT_HEADER_BYTES)?;
        let header = SlotHeader::decode(&page, &name)?;
        let file = SlotFile { number, file: Arc::from(file), len };
        match header {
            None => files.bad.push(file),
            Some(header) if header.sequence < replay.sequence => {}
            Some(header) => {
                let slot = FoundSlot { file, header, cut: None, limit: len };
                if let Some(other) = files.used.insert(header.sequence, slot) {
                    let other = other.file.file.name().to_owned();
                    let problem = format!(
                        "it says it is slot {}, and so does {name}: move the one that does not belong here out of {LOG_DIR}",
                        header.sequence
                    );
                    return Err(corrupt(&other, 0, problem));
                }
            }
        }
    }
    Ok(files)
}

/// Finds what is missing between the slots: a file without its header, or none.
fn complete(files: &mut Files, replay: ReplayFrom, survey: &mut Survey) -> Result<(), StoreError> {
    let Some((&newest, _)) = files.used.last_key_value() else {
        return if replay == ReplayFrom::START { Ok(()) } else { make_first(files, replay, survey) };
    };
    if newest.saturating_sub(replay.sequence) >= MISSING_MAX + files.used.len() as u64 {
        return Err(corrupt(
            LOG_DIR,
            0,
            format!("slots {} to {newest} cannot all be missing", replay.sequence),
        ));
    }
    let mut epoch_wanted = None;
    for sequence in (replay.sequence..=newest).rev() {
        if let Some(slot) = files.used.get(&sequence) {
            if epoch_wanted.is_some_and(|epoch| epoch != slot.header.epoch) {
                let next = sequence + 1;
                let problem = format!(
                    "slot {next} does not follow slot {sequence}, which is of another history: put the file back \
                     that belongs here, or move the one that does not out of {LOG_DIR}"
                );
                return Err(corrupt(slot.file.file.name(), 0, problem));
            }
            epoch_wanted = Some(slot.header.epoch_before);
            continue;
        }
        let epoch = epoch_wanted.unwrap_or_else(|| rand::random::<u64>() | 1);
        let before = sequence.checked_sub(1).and_then(|before| files.used.get(&before));
        let epoch_before = before.map_or_else(|| rand::random::<u64>() | 1, |slot| slot.header.epoch);
        let header = SlotHeader { sequence, epoch, epoch_before, created_ms: 0 };
        place(files, header, survey)?;
        epoch_wanted = Some(epoch_before);
    }
    Ok(())
}

/// No slot is left where the replay starts: one without a header may be it, or it is gone.
fn make_first(files: &mut Files, replay: ReplayFrom, survey: &mut Survey) -> Result<(), StoreError> {
    let before = SlotHeader { sequence: replay.sequence - 1, epoch: 0, epoch_before: 0, created_ms: 0 };
    // The walk finds the file by what is in it.
    let mut bad = std::mem::take(&mut files.bad);
    if let Some(slot) = take_tail(&mut bad, replay.lsn.0, &before)? {
        let file = slot.file.file.name().to_owned();
        survey.headers.push(LostHeader { file, is_missing: false, header: slot.header });
        files.used.insert(replay.sequence, slot);
    } else {
        let epoch = rand::random::<u64>() | 1;
        let header = SlotHeader { sequence: replay.sequence, epoch, epoch_before: 0, created_ms: 0 };
        let file = next_name(survey);
        survey.headers.push(LostHeader { file, is_missing: true, header });
    }
    files.bad = bad;
    Ok(())
}

fn next_name(survey: &mut Survey) -> String {
    let number = (0..).find(|number| !survey.numbers.contains(number)).unwrap_or_default();
    survey.numbers.push(number);
    name_of(number)
}

/// Puts the file that holds batches of this header's epoch in its place, or remembers that one is to be made.
fn place(files: &mut Files, header: SlotHeader, survey: &mut Survey) -> Result<(), StoreError> {
    let mut found = None;
    for (at, file) in files.bad.iter().enumerate() {
        let mut scanner = Scanner::new(&*file.file, file.len);
        if next_whole(&mut scanner, SLOT_HEADER_BYTES, file.len, Some(header.epoch), 0)?.is_some() {
            found = Some(at);
        }
    }
    if let Some(at) = found {
        let file = files.bad.swap_remove(at);
        let name = file.file.name().to_owned();
        survey.headers.push(LostHeader { file: name, is_missing: false, header });
        let limit = file.len;
        files.used.insert(header.sequence, FoundSlot { file, header, cut: None, limit });
    } else {
        let file = next_name(survey);
        survey.headers.push(LostHeader { file, is_missing: true, header });
    }
    Ok(())
}

/// The file without a header that holds what comes next, with the header it must have had.
fn take_tail(bad: &mut Vec<SlotFile>, end: u64, last: &SlotHeader) -> Result<Option<FoundSlot>, StoreError> {
    let mut next: Option<(u64, usize, u64)> = None;
    for (at, file) in bad.iter().enumerate() {
        let mut scanner = Scanner::new(&*file.file, file.len);
        if !scanner.proves_more(SLOT_HEADER_BYTES, end, None)? {
            continue;
        }
        if let Some((_, batch)) = next_whole(&mut scanner, SLOT_HEADER_BYTES, file.len, None, end)? {
            let found = (batch.header.first_lsn, at, batch.header.epoch);
            next = Some(next.map_or(found, |other| other.min(found)));
        }
    }
    Ok(next.map(|(_, at, epoch)| {
        let file = bad.swap_remove(at);
        let sequence = last.sequence.saturating_add(1);
        let header = SlotHeader { sequence, epoch, epoch_before: last.epoch, created_ms: 0 };
        let limit = file.len;
        FoundSlot { file, header, cut: None, limit }
    }))
}

/// The first whole batch at `offset` or a later page whose position is `lsn` or later.
fn next_whole(
    scanner: &mut Scanner<'_>,
    offset: u64,
    limit: u64,
    epoch: Option<u64>,
    lsn: u64,
) -> Result<Option<(u64, FoundBatch)>, StoreError> {
    let mut at = offset;
    while at + BATCH_HEADER_BYTES <= limit {
        if let Some(batch) = scanner.batch(at, limit, epoch)?.filter(|batch| batch.header.first_lsn >= lsn) {
            return Ok(Some((at, batch)));
        }
        at += PAGE_BYTES;
    }
    Ok(None)
}

impl Walk<'_> {
    fn slot(&mut self, slot: &FoundSlot) -> Result<(), StoreError> {
        let name = slot.file.file.name().to_owned();
        let spot = |offset| Spot { sequence: slot.header.sequence, file: name.clone(), offset };
        let end = slot.limit.min(slot.file.len);
        let own = || (name.clone(), Arc::clone(&slot.file.file), end);
        self.passed.push(own());
        if let Some(cut) = slot.cut {
            if cut.lsn < self.end {
                let problem = format!("the log is cut at {}, and goes on to {}", cut.lsn, self.end);
                return Err(corrupt(&name, SLOT_HEADER_BYTES, problem));
            }
            self.reach(&spot(SLOT_HEADER_BYTES), cut.lsn)?;
        }
        let epoch = Some(slot.header.epoch);
        let is_cut = slot.limit < slot.file.len;
        let mut scanner = Scanner::new(&*slot.file.file, slot.file.len);
        let mut offset = SLOT_HEADER_BYTES;
        loop {
            let batch = scanner.batch(offset, slot.limit, epoch)?;
            if let Some(batch) = batch.filter(|batch| batch.header.first_lsn == self.end) {
                self.deliver(&batch, &name, offset)?;
                offset += batch.header.padded_bytes();
                self.stop = spot(offset);
                self.stop_limit = is_cut.then_some(slot.limit);
                self.passed = vec![own()];
                continue;
            }
            if !is_cut && !scanner.proves_more(offset, 0, epoch)? {
                break;
            }
            match next_whole(&mut scanner, offset, slot.limit, epoch, self.end)? {
                // Nothing is missing, and something is in between: a write that went astray. No filling has no bytes.
                Some((_, batch)) if batch.header.first_lsn == self.end => {
                    return Err(corrupt(&name, offset, "batches of another place are here"));
                }
                Some((at, batch)) => {
                    self.reach(&spot(at), batch.header.first_lsn)?;
                    offset = at;
                }
                None if is_cut => break,
                None => return Err(corrupt(&name, offset, "the log goes back here")),
            }
        }
        self.watch.advance(slot.file.len);
        Ok(())
    }

    /// The log goes on at `to`: what lies between it and the last stop is a hole.
    fn reach(&mut self, to: &Spot, lsn: u64) -> Result<(), StoreError> {
        if lsn == self.end {
            return Ok(());
        }
        let mut ranges = Vec::new();
        let mut damaged = Vec::new();
        for (name, file, len) in &self.passed {
            let from = if *name == self.stop.file { self.stop.offset } else { SLOT_HEADER_BYTES };
            let until = if *name == to.file { to.offset } else { *len };
            if from < until {
                let bytes = read_trimmed(&**file, from, until)?;
                ranges.push((name.clone(), from, until));
                damaged.push(bytes);
            }
        }
        let hole = Hole {
            from: self.stop.clone(),
            to: to.clone(),
            start: Lsn(self.end),
            end: Lsn(lsn),
            room_end: self.stop_limit,
            ranges,
        };
        self.reader.hole(&hole, &damaged);
        self.survey.holes.push(hole);
        self.end = lsn;
        self.stop = to.clone();
        self.passed.retain(|(name, ..)| *name == to.file);
        Ok(())
    }

    fn deliver(&mut self, batch: &FoundBatch, name: &str, offset: u64) -> Result<(), StoreError> {
        let payload = offset + BATCH_HEADER_BYTES;
        let first = batch.header.first_lsn;
        let reader = &mut *self.reader;
        deliver(batch, name, offset, &mut SlotFacts::default(), &mut |record| {
            reader.record(&record, name, payload + (record.start.0 - first))
        })?;
        self.end = batch.header.end_lsn();
        self.survey.batches += 1;
        self.survey.bytes += u64::from(batch.header.payload_bytes);
        Ok(())
    }
}

/// The bytes of a range without the pages of zeros at its end.
pub(super) fn read_trimmed(file: &dyn DiskFile, from: u64, until: u64) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![0; usize::try_from(until.saturating_sub(from)).unwrap_or(usize::MAX)];
    let read = file.read_at(&mut bytes, from).map_err(StoreError::io("read", file.name()))?;
    bytes.truncate(read);
    let used = bytes.iter().rposition(|octet| *octet != 0).map_or(0, |last| last + 1);
    bytes.truncate(used);
    Ok(bytes)
}
