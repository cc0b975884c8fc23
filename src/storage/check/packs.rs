//! Reads every pack that the tables know, as a broker would, and says which live messages it does not give.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::message::place::{Extent, QueueId, Seq};
use crate::message::run::Run;
use crate::stats::Gauge;
use crate::storage::check::Watch;
use crate::storage::check::fold::{FoldedExtent, Folding};
use crate::storage::disk::Disk;
use crate::storage::error::StoreError;
use crate::storage::pack::reader::{ExtentRead, Pack};
use crate::storage::pack::{Kind, PACK_DIR, number_of};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Packs {
    pub(super) count: u64,
    /// Files that the tables do not know.
    pub(super) unknown: Vec<u64>,
    /// The highest number there is.
    pub(super) highest: u64,
    pub(super) damaged: Vec<DamagedPack>,
}

/// A pack that does not give all that lives in it.
#[derive(Debug)]
pub(super) struct DamagedPack {
    pub(super) number: u64,
    /// Why none of it can be read by a broker, if so.
    pub(super) unreadable: Option<StoreError>,
    /// The extents that lack something.
    pub(super) extents: Vec<DamagedExtent>,
}

/// An extent that lacks live messages.
#[derive(Debug)]
pub(super) struct DamagedExtent {
    pub(super) queue: QueueId,
    pub(super) extent: FoldedExtent,
    /// The live numbers that cannot be read, from the first on.
    pub(super) lost: RoaringBitmap,
    pub(super) problems: Vec<StoreError>,
}

/// Checks all packs.
///
/// # Errors
/// What the disk says; damage is in what is returned.
pub(super) fn check(disk: &dyn Disk, fold: &Folding, watch: &mut dyn Watch) -> Result<Packs, StoreError> {
    let mut by_pack: BTreeMap<u64, Vec<(QueueId, &FoldedExtent)>> = BTreeMap::new();
    for (queue, folded) in &fold.fold.queues {
        for extent in &folded.extents {
            by_pack.entry(extent.at.pack).or_default().push((*queue, extent));
        }
    }
    let files: BTreeSet<u64> = names(disk)?.iter().filter_map(|name| number_of(name)).collect();
    let mut packs = Packs {
        count: by_pack.len() as u64,
        unknown: files.iter().copied().filter(|number| !by_pack.contains_key(number)).collect(),
        highest: files.iter().chain(by_pack.keys()).copied().max().unwrap_or_default(),
        damaged: Vec::new(),
    };
    let bytes = by_pack.values().flatten().map(|(_, extent)| u64::from(extent.at.bytes)).sum();
    watch.begin("packs", bytes);
    for (number, extents) in by_pack {
        packs.damaged.extend(check_pack(disk, number, &extents, watch)?);
    }
    Ok(packs)
}

fn names(disk: &dyn Disk) -> Result<Vec<String>, StoreError> {
    match disk.list(PACK_DIR) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        names => names.map_err(StoreError::io("list", PACK_DIR)),
    }
}

fn check_pack(
    disk: &dyn Disk,
    number: u64,
    extents: &[(QueueId, &FoldedExtent)],
    watch: &mut dyn Watch,
) -> Result<Option<DamagedPack>, StoreError> {
    let (pack, unreadable) = open(disk, number)?;
    let mut damaged = Vec::new();
    let mut lives = false;
    for &(queue, extent) in extents {
        let expected = extent.live();
        lives |= !expected.is_empty();
        if !expected.is_empty() {
            let read = read(pack.as_ref(), queue, &extent.at)?;
            let lost = expected - found(&extent.at, &read.runs);
            if !lost.is_empty() {
                let extent = extent.clone();
                damaged.push(DamagedExtent { queue, extent, lost, problems: read.damaged });
            }
        }
        watch.advance(extent.at.bytes.into());
    }
    // What holds nothing that lives is nobody's loss: the next checkpoint forgets it.
    let is_damaged = lives && (unreadable.is_some() || !damaged.is_empty());
    Ok(is_damaged.then_some(DamagedPack { number, unreadable, extents: damaged }))
}

/// The pack, and why a broker cannot open it; then it is read without its footer, if there is a file.
pub(super) fn open(disk: &dyn Disk, number: u64) -> Result<(Option<Pack>, Option<StoreError>), StoreError> {
    match Pack::open(disk, Kind::Durable, number) {
        Ok(pack) => Ok((Some(pack), None)),
        Err(damage @ StoreError::Corrupt { .. }) => {
            Ok((Some(Pack::salvage(disk, Kind::Durable, number)?), Some(damage)))
        }
        Err(StoreError::Io { error, file, .. }) if error.kind() == io::ErrorKind::NotFound => {
            Ok((None, Some(StoreError::Corrupt { file, offset: 0, problem: "the file is gone".to_owned() })))
        }
        Err(error) => Err(error),
    }
}

/// What the extent gives, as far as the file reaches.
pub(super) fn read(pack: Option<&Pack>, queue: QueueId, at: &Extent) -> Result<ExtentRead, StoreError> {
    let Some(pack) = pack else { return Ok(ExtentRead::default()) };
    let room = pack.blocks_end().saturating_sub(at.offset).min(u64::from(at.bytes));
    let within = Extent { bytes: u32::try_from(room).unwrap_or(at.bytes), ..*at };
    pack.read_extent(queue, &within, &Arc::new(Gauge::default()))
}

/// The numbers of the runs, from the extent's first on.
fn found(at: &Extent, runs: &[Run]) -> RoaringBitmap {
    let relative = |seq: Seq| u32::try_from(seq.0.saturating_sub(at.first.0)).unwrap_or(u32::MAX);
    let mut found = RoaringBitmap::new();
    for run in runs {
        found.insert_range(relative(run.first_seq())..relative(run.end_seq()));
    }
    found
}
