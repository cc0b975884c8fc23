//! The pages of one file: what the cache shows, what the device has, and what lies between.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::storage::disk::PAGE_BYTES;
use crate::storage::disk::simulated::CrashMode;

const PAGE: usize = PAGE_BYTES as usize;

type Page = Arc<[u8; PAGE]>;

/// A file's bytes, cached and on the device.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub(super) len: u64,
    durable_len: u64,
    cached: BTreeMap<u64, Page>,
    durable: BTreeMap<u64, Page>,
    /// Each dirty page's versions since the last sync, oldest first; `None` is a page of zeros.
    dirty: BTreeMap<u64, Vec<Option<Page>>>,
    len_dirty: bool,
}

impl Contents {
    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        let mut rest = bytes;
        let mut offset = offset;
        while !rest.is_empty() {
            let page = offset / PAGE_BYTES;
            let at = (offset % PAGE_BYTES) as usize;
            let (now, later) = rest.split_at(rest.len().min(PAGE - at));
            let mut content = self.cached.get(&page).map_or([0; PAGE], |old| **old);
            if let Some(place) = content.get_mut(at..at + now.len()) {
                place.copy_from_slice(now);
            }
            self.put(page, Some(Arc::new(content)));
            offset += now.len() as u64;
            rest = later;
        }
        self.set_len(self.len.max(offset));
    }

    fn put(&mut self, page: u64, content: Option<Page>) {
        self.dirty.entry(page).or_default().push(content.clone());
        set(&mut self.cached, page, content);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.len_dirty |= len != self.len;
        self.len = len;
    }

    pub(super) fn truncate(&mut self, len: u64) {
        let gone: Vec<u64> = self.cached.range(len.div_ceil(PAGE_BYTES)..).map(|(page, _)| *page).collect();
        gone.into_iter().for_each(|page| self.put(page, None));
        if let Some(page) = self.cached.get(&(len / PAGE_BYTES)) {
            let mut content = **page;
            content.iter_mut().skip((len % PAGE_BYTES) as usize).for_each(|byte| *byte = 0);
            self.put(len / PAGE_BYTES, Some(Arc::new(content)));
        }
        self.set_len(len);
    }

    /// Fills `buffer`; past the cache, clean pages come from the device.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64, uncached: bool) -> usize {
        let end = self.len.min(offset.saturating_add(buffer.len() as u64));
        let mut at = offset;
        while at < end {
            let page = at / PAGE_BYTES;
            let device = uncached && !self.dirty.contains_key(&page);
            let content = if device { self.durable.get(&page) } else { self.cached.get(&page) };
            let from = (at % PAGE_BYTES) as usize;
            let count = (PAGE - from).min((end - at) as usize);
            let into = (at - offset) as usize;
            if let Some(into) = buffer.get_mut(into..into + count) {
                match content.and_then(|page| page.get(from..from + count)) {
                    Some(bytes) => into.copy_from_slice(bytes),
                    None => into.fill(0),
                }
            }
            at += count as u64;
        }
        end.saturating_sub(offset) as usize
    }

    pub(super) fn sync(&mut self) {
        for (page, mut versions) in std::mem::take(&mut self.dirty) {
            set(&mut self.durable, page, versions.pop().flatten());
        }
        self.durable_len = self.len;
        self.len_dirty = false;
    }

    /// Everything is clean, and the device has some of it.
    pub(super) fn fail_to_sync(&mut self, dice: &mut Dice) {
        for (page, mut versions) in std::mem::take(&mut self.dirty) {
            if dice.roll(2) == 1 {
                set(&mut self.durable, page, versions.pop().flatten());
            }
        }
        self.durable_len = self.len;
        self.len_dirty = false;
    }

    pub(super) fn drop_clean(&mut self) {
        let mut cached = self.durable.clone();
        for (page, versions) in &self.dirty {
            set(&mut cached, *page, versions.last().cloned().flatten());
        }
        self.cached = cached;
    }

    pub(super) fn cut_power(&mut self, mode: CrashMode, torn: Option<u64>, dice: &mut Dice) {
        for (page, mut versions) in std::mem::take(&mut self.dirty) {
            let last = versions.pop().flatten();
            let before = versions.last().cloned().unwrap_or_else(|| self.durable.get(&page).cloned());
            match mode {
                CrashMode::AllKept | CrashMode::DataBeforeDirectoryEntry => {
                    set(&mut self.durable, page, last);
                }
                CrashMode::TornLastPage if torn == Some(page) => {
                    let cut = dice.roll(PAGE_BYTES / 8) as usize * 8;
                    set(&mut self.durable, page, Some(tear(before.as_ref(), last.as_ref(), cut)));
                }
                CrashMode::TornLastPage => set(&mut self.durable, page, last),
                CrashMode::RandomPages => match dice.roll(versions.len() as u64 + 2) as usize {
                    0 => {}
                    1 => set(&mut self.durable, page, last),
                    n => set(&mut self.durable, page, versions.get(n - 2).cloned().flatten()),
                },
                CrashMode::NothingUnsynced | CrashMode::RenameBeforeData | CrashMode::Kill => {}
            }
        }
        let kept = match mode {
            CrashMode::AllKept | CrashMode::DataBeforeDirectoryEntry | CrashMode::TornLastPage => true,
            CrashMode::RandomPages => dice.roll(2) == 1,
            _ => false,
        };
        if kept || !self.len_dirty {
            self.durable_len = self.len;
        }
        self.len = self.durable_len;
        self.len_dirty = false;
        // Beyond its end a file has nothing, whatever was written there.
        self.durable.split_off(&self.len.div_ceil(PAGE_BYTES));
        self.cached = self.durable.clone();
    }
}

/// A small generator: a crash is the same for the same seed.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % sides.max(1)
    }
}

fn set(pages: &mut BTreeMap<u64, Page>, page: u64, content: Option<Page>) {
    match content {
        Some(content) => pages.insert(page, content),
        None => pages.remove(&page),
    };
}

/// The first `cut` bytes new, the rest old.
fn tear(old: Option<&Page>, new: Option<&Page>, cut: usize) -> Page {
    let mut torn = old.map_or([0; PAGE], |old| **old);
    let new = new.map_or([0; PAGE], |new| **new);
    torn.iter_mut().zip(new).take(cut).for_each(|(to, from)| *to = from);
    Arc::new(torn)
}
