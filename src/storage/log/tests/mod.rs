//! The log on a disk that fails: one rule a test. The enumerator of crashes is in [`crashes`].

mod crashes;
mod rules;

use std::sync::Arc;

use bytes::Bytes;

use crate::message::fact_codec::Sink;
use crate::message::place::{Logged, Lsn};
use crate::storage::disk::Disk;
use crate::storage::disk::simulated::SimulatedDisk;
use crate::storage::error::StoreError;
use crate::storage::log::{Class, Committed, Log, LogOptions, LogReader, ReplayFrom, Replayed};

/// A kind that no fact has.
const KIND: u8 = 200;
const SLOT_BYTES: u64 = 32 * 1024;

fn options(seed: u64) -> LogOptions {
    LogOptions {
        slot_bytes: SLOT_BYTES,
        window_slots: 3,
        batch_bytes_max: 6 * 1024,
        epoch_seed: Some(seed),
        ..LogOptions::default()
    }
}

/// The body of the record numbered `id`.
fn body(id: u64, len: usize) -> Vec<u8> {
    id.to_le_bytes().into_iter().cycle().take(len).collect()
}

fn open(disk: &SimulatedDisk, seed: u64, from: ReplayFrom) -> Result<(Log, Vec<Replayed>), StoreError> {
    open_with(disk, options(seed), from)
}

fn open_with(
    disk: &SimulatedDisk,
    options: LogOptions,
    from: ReplayFrom,
) -> Result<(Log, Vec<Replayed>), StoreError> {
    let mut records = Vec::new();
    let log = Log::open(Arc::new(disk.clone()), options, from, &mut |record: Replayed| {
        records.push(Replayed { body: Bytes::copy_from_slice(&record.body), ..record });
        Ok(())
    })?;
    Ok((log, records))
}

/// Opens a log that is not refused.
fn reopen(disk: &SimulatedDisk, seed: u64) -> (Log, Vec<u64>) {
    let (log, records) = open(disk, seed, ReplayFrom::START).unwrap();
    (log, ids(&records))
}

fn refused(disk: &SimulatedDisk, seed: u64) -> String {
    open(disk, seed, ReplayFrom::START).expect_err("it should refuse").to_string()
}

fn ids(records: &[Replayed]) -> Vec<u64> {
    records.iter().map(|record| u64::from_le_bytes(record.body[..8].try_into().unwrap())).collect()
}

/// Appends one unit of records.
fn append(log: &Log, unit: impl IntoIterator<Item = (u64, usize)>) -> Vec<Logged> {
    let mut append = log.append();
    let logged = unit
        .into_iter()
        .map(|(id, len)| append.push_record(KIND, Class::Message, [], |sink| sink.put(&body(id, len))));
    logged.collect()
}

fn commit_all(log: &Log) -> Result<(), StoreError> {
    while log.commit_once()? == Committed::Batch {}
    Ok(())
}

/// Appends and commits one record a batch.
fn write(log: &Log, ids: impl IntoIterator<Item = u64>, len: usize) -> Vec<Lsn> {
    let each = ids.into_iter().map(|id| {
        let logged = append(log, [(id, len)])[0];
        commit_all(log).unwrap();
        logged.start
    });
    each.collect()
}

fn read(log: &Log, reader: &mut LogReader, start: Lsn) -> Vec<u8> {
    let lease = log.lease(start).expect("a record that is in the log");
    let (kind, body) = reader.read(&lease, start).unwrap();
    assert_eq!(kind, KIND);
    body.to_vec()
}

/// Gives the oldest slots back, as a checkpoint does.
fn retire(log: &Log, max: usize) -> Option<ReplayFrom> {
    let retiring = log.retirable(max)?;
    let replay = retiring.replay();
    assert!(log.try_retire(retiring).is_none());
    Some(replay)
}

fn slot_files(disk: &SimulatedDisk) -> Vec<String> {
    let mut names: Vec<_> = disk.list("log").unwrap().iter().map(|name| format!("log/{name}")).collect();
    names.sort();
    names
}
