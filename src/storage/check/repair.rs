//! Makes a damaged directory one that a broker starts on. Each step leaves a directory that can be checked and
//! repaired again.
//!
//! * A hole of the log is filled with batches of the same positions, whose records say that something is lost.
//! * A slot's header is written anew when its neighbours tell what it was.
//! * Messages that a pack does not give are settled in the tables; a pack that cannot be opened is written anew with
//!   what can be read of it.
//! * Messages whose blocks in the log are damaged are settled by a fact of the log.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::message::fact::Fact;
use crate::message::place::{QueueId, Seq};
use crate::storage::batch::{
    BATCH_HEADER_BYTES, BatchHeader, LOST, RECORD_HEADER_BYTES, RecordHeader, padded_bytes,
};
use crate::storage::check::fold::Folding;
use crate::storage::check::log::{Hole, LostHeader, Spot, Survey};
use crate::storage::check::packs::{self, DamagedExtent, DamagedPack};
use crate::storage::check::{Check, quarantine, ranges, said};
use crate::storage::disk::{Disk, DiskFile, PAGE_BYTES};
use crate::storage::error::StoreError;
use crate::storage::log::{Committed, LOG_DIR, Log, LogOptions, ReplayFrom};
use crate::storage::meta::{Changes, Meta};
use crate::storage::pack::Kind;
use crate::storage::pack::writer::PackWriter;
use crate::storage::slot::{SLOT_HEADER_BYTES, SlotHeader};

pub(super) fn repair(check: Check) -> Result<Vec<String>, StoreError> {
    let Check { disk, meta, state, fold, survey, packs, .. } = check;
    let mut done = Vec::new();
    if survey.fatal.is_some() {
        return Ok(vec!["the log cannot be repaired here: nothing was changed".to_owned()]);
    }
    for lost in &survey.headers {
        restore_header(&*disk, lost, &mut done)?;
    }
    for hole in &survey.holes {
        fill(&*disk, hole, &mut done)?;
    }
    if let Some(mut meta) = meta {
        let mut number = packs.highest;
        for pack in &packs.damaged {
            // The last word of a clean stop still holds.
            let mut changes = Changes { clean: state.clean, ..Changes::default() };
            number += 1;
            if pack.unreadable.is_some() {
                rewrite_pack(&*disk, &mut meta, pack, number, &fold, &mut changes, &mut done)?;
            } else {
                settle_extents(&disk, &mut meta, pack, &mut changes, &mut done)?;
            }
        }
    }
    settle_broken(&disk, &fold, &survey, state.replay, &mut done)?;
    Ok(done)
}

fn open(disk: &dyn Disk, name: &str) -> Result<Box<dyn DiskFile>, StoreError> {
    disk.open(name).map_err(StoreError::io("open", name))
}

fn restore_header(disk: &dyn Disk, lost: &LostHeader, done: &mut Vec<String>) -> Result<(), StoreError> {
    let (name, sequence) = (&lost.file, lost.header.sequence);
    let file = if lost.is_missing {
        let file = disk.create(name).map_err(StoreError::io("create", name))?;
        done.push(format!("{name}: made, as an empty slot {sequence}"));
        file
    } else {
        let file = open(disk, name)?;
        let note = format!("The header of slot {sequence} was damaged, and written anew.");
        let copy = quarantine::keep(disk, &*file, 0, SLOT_HEADER_BYTES, &note)?;
        done.push(format!("{name}: the header of slot {sequence} written anew; the damaged one is {copy}"));
        file
    };
    file.write_at(&[IoSlice::new(&lost.header.encode())], 0).map_err(StoreError::io("write", name))?;
    file.sync_data().map_err(StoreError::io("sync", name))?;
    disk.sync_dir(LOG_DIR).map_err(StoreError::io("sync", LOG_DIR))
}

/// Fills a hole: exactly the pages before what follows it, and what does not fit there behind what comes before.
fn fill(disk: &dyn Disk, hole: &Hole, done: &mut Vec<String>) -> Result<(), StoreError> {
    let missing = hole.end.0 - hole.start.0;
    let note = format!("The log's positions {} to {} were damaged, and are lost.", hole.start.0, hole.end.0);
    let mut copies = Vec::new();
    for (name, from, until) in &hole.ranges {
        copies.push(quarantine::keep(disk, &*open(disk, name)?, *from, *until, &note)?);
    }
    let same_file = hole.from.file == hole.to.file;
    let begin = if same_file { hole.from.offset } else { SLOT_HEADER_BYTES };
    let pages = hole.to.offset.saturating_sub(begin) / PAGE_BYTES;
    let mut before = 0;
    let sizes = match sizes(pages, missing) {
        Some(sizes) => sizes,
        None if !same_file => {
            let within = pages * RECORD_HEADER_BYTES;
            before = missing.saturating_sub(within);
            let padded = hole.from.offset + padded_bytes(before);
            if before < RECORD_HEADER_BYTES || hole.room_end.is_some_and(|end| padded > end) {
                return Err(unfillable(hole));
            }
            vec![RECORD_HEADER_BYTES; pages as usize]
        }
        None => return Err(unfillable(hole)),
    };
    // From the end to the start: until the last one is written the hole is a hole.
    let mut lsn = hole.start.0 + before;
    let mut spot = Spot { offset: begin, ..hole.to.clone() };
    for size in sizes {
        write_lost(disk, &spot, lsn, size)?;
        lsn += size;
        spot.offset += padded_bytes(size);
    }
    if before > 0 {
        write_lost(disk, &hole.from, hole.start.0, before)?;
    }
    done.push(format!(
        "{} at byte {}: the damaged part is {}; positions {} to {} are marked as lost",
        hole.from.file,
        hole.from.offset,
        if copies.is_empty() { "gone".to_owned() } else { format!("now {}", copies.join(" and ")) },
        hole.start.0,
        hole.end.0
    ));
    Ok(())
}

fn unfillable(hole: &Hole) -> StoreError {
    StoreError::Corrupt {
        file: hole.from.file.clone(),
        offset: hole.from.offset,
        problem: "the damaged part cannot be filled: no batches of its length fit into it".to_owned(),
    }
}

/// Payloads of batches that take exactly so many pages and positions.
fn sizes(pages: u64, bytes: u64) -> Option<Vec<u64>> {
    for count in 1..=pages {
        let small = (count - 1) * RECORD_HEADER_BYTES;
        let last = bytes.checked_sub(small).filter(|last| *last >= RECORD_HEADER_BYTES)?;
        if count - 1 + padded_bytes(last) / PAGE_BYTES == pages {
            let mut sizes = vec![RECORD_HEADER_BYTES; count as usize - 1];
            sizes.push(last);
            return Some(sizes);
        }
    }
    None
}

/// Writes a batch of one record that says that what was here is lost.
fn write_lost(disk: &dyn Disk, spot: &Spot, first_lsn: u64, payload_bytes: u64) -> Result<(), StoreError> {
    let file = open(disk, &spot.file)?;
    let name = file.name().to_owned();
    let mut page = vec![0; SLOT_HEADER_BYTES as usize];
    file.read_at(&mut page, 0).map_err(StoreError::io("read", &name))?;
    let too_long = || StoreError::Corrupt {
        file: name.clone(),
        offset: spot.offset,
        problem: "the damaged part is too long to be filled".to_owned(),
    };
    let epoch = SlotHeader::decode(&page, &name)?.ok_or_else(too_long)?.epoch;
    let body_bytes = u32::try_from(payload_bytes - RECORD_HEADER_BYTES).map_err(|_| too_long())?;
    let mut payload = vec![0; payload_bytes as usize];
    let record = RecordHeader { body_bytes, kind: LOST }.encode();
    payload.iter_mut().zip(record).for_each(|(to, from)| *to = from);
    let header = BatchHeader {
        payload_bytes: u32::try_from(payload_bytes).map_err(|_| too_long())?,
        epoch,
        first_lsn,
        records: 1,
        relaxed: false,
        payload_crc: crc32c::crc32c(&payload),
    };
    let padding = vec![0; (header.padded_bytes() - BATCH_HEADER_BYTES - payload_bytes) as usize];
    let encoded = header.encode();
    let slices = [IoSlice::new(&encoded), IoSlice::new(&payload), IoSlice::new(&padding)];
    file.write_at(&slices, spot.offset).map_err(StoreError::io("write", &name))?;
    file.sync_data().map_err(StoreError::io("sync", &name))
}

/// What an extent does not give is settled.
fn settle_extents(
    disk: &Arc<dyn Disk>,
    meta: &mut Meta,
    pack: &DamagedPack,
    changes: &mut Changes,
    done: &mut Vec<String>,
) -> Result<(), StoreError> {
    let name = Kind::Durable.file_name(pack.number);
    let file = open(&**disk, &name)?;
    for damaged in &pack.extents {
        let at = &damaged.extent.at;
        let numbers = said(&ranges(&damaged.numbers()));
        let note =
            format!("Messages {numbers} of queue number {} were damaged, and are lost.", damaged.queue.0);
        let end = at.offset.saturating_add(at.bytes.into());
        let copy = quarantine::keep(&**disk, &*file, at.offset, end, &note)?;
        done.push(format!(
            "{name} at byte {}: messages {numbers} are settled; their part is {copy}",
            at.offset
        ));
        let key = (damaged.queue, damaged.extent.lane, at.first);
        let settled = &damaged.extent.settled | &damaged.lost;
        if damaged.extent.live() == damaged.lost {
            changes.extents_forgotten.push(key);
        } else {
            changes.settled.push((key.0, key.1, key.2, settled));
        }
    }
    meta.commit(changes)
}

/// What can be read of a pack goes to a new one, and all of the old one is set aside.
fn rewrite_pack(
    disk: &dyn Disk,
    meta: &mut Meta,
    pack: &DamagedPack,
    number: u64,
    fold: &Folding,
    changes: &mut Changes,
    done: &mut Vec<String>,
) -> Result<(), StoreError> {
    let name = Kind::Durable.file_name(pack.number);
    let (old, _) = packs::open(disk, pack.number)?;
    let lost: Vec<String> = (pack.extents.iter())
        .map(|damaged| format!("{} of queue number {}", said(&ranges(&damaged.numbers())), damaged.queue.0))
        .collect();
    let lost = if lost.is_empty() { "none".to_owned() } else { lost.join(", ") };
    let mut writer = PackWriter::create(disk, Kind::Durable, number)?;
    let mut written = 0;
    for (queue, folded) in &fold.fold.queues {
        let mut extents: Vec<_> =
            folded.extents.iter().filter(|extent| extent.at.pack == pack.number).collect();
        extents.sort_by_key(|extent| extent.at.first);
        for extent in extents {
            let read = packs::read(old.as_ref(), *queue, &extent.at)?;
            let live = extent.live_ranges().into_iter().map(|range| (Seq(range.start), Seq(range.end)));
            written += writer.copy(*queue, pack.number, &read, live, |_, _| false)?;
            // An extent of another pack may lie between this one and the next.
            writer.cut_extent()?;
        }
    }
    if written > 0 {
        changes.extents = writer.finish(disk)?.extents;
    }
    changes.packs_forgotten.push(pack.number);
    let copy = match &old {
        None => "no file is left of it".to_owned(),
        Some(_) => {
            let note = format!(
                "The pack could not be opened. What was whole is in pack {number:016x} now; lost: {lost}."
            );
            format!("the old one is {}", quarantine::keep(disk, &*open(disk, &name)?, 0, u64::MAX, &note)?)
        }
    };
    meta.commit(changes)?;
    if written == 0 {
        let unused = Kind::Durable.file_name(number);
        disk.unlink(&unused).map_err(StoreError::io("remove", &unused))?;
    }
    if old.is_some() {
        disk.unlink(&name).map_err(StoreError::io("remove", &name))?;
    }
    done.push(format!("{name}: {written} messages written anew; lost: {lost}; {copy}"));
    Ok(())
}

/// Settles messages that lie damaged in whole batches.
fn settle_broken(
    disk: &Arc<dyn Disk>,
    fold: &Folding,
    survey: &Survey,
    replay: ReplayFrom,
    done: &mut Vec<String>,
) -> Result<(), StoreError> {
    let broken: BTreeMap<QueueId, &RoaringTreemap> = (fold.fold.queues.iter())
        .filter(|(_, queue)| !queue.broken.is_empty())
        .map(|(id, queue)| (*id, &queue.broken))
        .collect();
    if broken.is_empty() {
        return Ok(());
    }
    let options = LogOptions { slot_bytes: survey.slot_bytes, ..LogOptions::default() };
    let log = Log::open(Arc::clone(disk), options, replay, &mut |_| Ok(()))?;
    for (queue, numbers) in broken {
        let settled: Vec<_> =
            ranges(numbers).iter().map(|range| (Seq(range.start), Seq(range.end))).collect();
        drop(log.append_one(&Fact::Settled { queue, ranges: &settled }));
        done.push(format!("messages {} of queue number {} are settled", said(&ranges(numbers)), queue.0));
    }
    while log.commit_once()? == Committed::Batch {}
    Ok(())
}

impl DamagedExtent {
    /// The numbers that are lost.
    pub(super) fn numbers(&self) -> RoaringTreemap {
        self.lost.iter().map(|relative| self.extent.at.first.after(relative).0).collect()
    }
}
