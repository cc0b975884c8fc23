//! What to do with so much free space: whoever needs room on the disk, or finds none, asks here.
//!
//! ```text
//!                | above the limit           | below it: the alarm         | a call was refused
//! ---------------+---------------------------+-----------------------------+--------------------------------------
//!  publishers    | go on                     | wait                        | wait; for a checkpoint that the log
//!                |                           |                             | needs, until it has found room
//!  the log       | whole slots and a spare,  | what it has free goes, but  | a slot as short as its batch, then
//!                | as many as a burst needed | for one                     | the reserve, then it waits for room
//!  checkpoints   | half a window at once,    | slot by slot, all that is   | given up and tried again, with the
//!                | when one is due           | sealed                      | reserve if the log needs the slots
//!  merges        | of packs of which three   | of packs of which a quarter | given up, and tried again with twice as
//!                | quarters are dead         | is                          | much free or when an alarm has come or gone
//!  spills        | written                   | while twice the reserve     | given up: the messages stay in memory
//!                |                           | is free                     |
//!  one hold of   | half of what is free, or  | half of what is free above  | what half a slot has room for; more
//!  the log       | a slot                    | half the limit, or a slot   | is refused, and nothing of it logged
//!  dead letters  | go on                     | while half the limit is     | wait with the log
//!                |                           | free, a part from look to   |
//!                |                           | look                        |
//!  the reserve   | taken                     | kept                        | given to the log, a checkpoint, a start
//! ```
//!
//! A checkpoint and a merge are what gives room back, and so they come first, smallest first: each gives more than it
//! took before the next one begins. What a step may write is bounded before it writes, and what it has written when it is
//! given up goes at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::broker::alarms::{Alarms, Level, Shortage};
use crate::storage::ballast::Ballast;
use crate::storage::disk::Disk;
use crate::storage::error::StoreError;

/// The reserve, in slots of the log: one that the log goes on in, one for what lives in the slot that is taken over.
const RESERVE_SLOTS: u64 = 2;
/// And for what the tables grow by meanwhile.
const RESERVE_TABLES_BYTES: u64 = 4 << 20;
/// A hold of the log is not large below this, however small a slot is: as much as this may wait for the log at any time.
const LARGE_HOLD_BYTES_MIN: u64 = 1 << 20;
/// A disk alarm ends when this share of what is free would be enough, in tenths.
const PLENTY_TENTHS: u64 = 9;
/// Dead letters take one of so many parts of the room that is theirs between two looks.
const DEAD_LETTERS_SHARE: u64 = 4;
/// A pack with less than this share of its messages alive is merged.
const LIVE_SHARE_MIN: (u64, u64) = (1, 4);
/// The same during an alarm.
const LIVE_SHARE_MIN_SHORT: (u64, u64) = (3, 4);

/// The room of a data directory.
#[derive(Debug)]
pub struct Room {
    disk: Arc<dyn Disk>,
    ballast: Ballast,
    slot_bytes: u64,
    /// So many bytes may large holds of the log have before the disk is looked at again.
    large_holds_bytes: AtomicU64,
    /// So many were let since it was looked at.
    let_bytes: AtomicU64,
    /// So much was free when a checkpoint that the log waits for found no room.
    too_little_bytes: AtomicU64,
}

/// What there is, and what may be done with it.
#[derive(Clone, Copy, Debug)]
pub struct Means {
    free_bytes: u64,
    slot_bytes: u64,
    is_short: bool,
    /// The reserve is apart from what is free.
    has_reserve: bool,
}

impl Room {
    /// The room on a disk, for a log of such slots.
    pub fn new(disk: Arc<dyn Disk>, slot_bytes: u64) -> Self {
        let ballast = Ballast::new(Arc::clone(&disk), reserve_bytes(slot_bytes));
        Self {
            disk,
            ballast,
            slot_bytes,
            large_holds_bytes: AtomicU64::new(u64::MAX),
            let_bytes: AtomicU64::new(0),
            too_little_bytes: AtomicU64::new(0),
        }
    }

    /// So much was free a moment ago, of which what waits for the log will have a part, and what was let since the look
    /// before may have one that has not come there yet: what large holds may have from now on.
    pub fn measured(&self, free_bytes: u64, limit_bytes: u64, is_short: bool, pending_bytes: u64) {
        let bytes = for_large_holds(free_bytes, limit_bytes, is_short).max(self.of_reserve());
        let promised_bytes = pending_bytes.saturating_add(self.let_bytes.swap(0, Ordering::Relaxed));
        self.large_holds_bytes.store(bytes.saturating_sub(promised_bytes), Ordering::Relaxed);
    }

    /// The disk has refused something: what large holds may have until it is looked at.
    pub fn refused(&self, pending_bytes: u64) {
        self.large_holds_bytes.store(self.of_reserve().saturating_sub(pending_bytes), Ordering::Relaxed);
    }

    /// A checkpoint that the log waits for was refused while so much was free.
    pub fn was_too_little(&self, free_bytes: u64) {
        self.too_little_bytes.store(free_bytes.max(1), Ordering::Relaxed);
    }

    /// Slots are used again.
    pub fn was_enough(&self) {
        self.too_little_bytes.store(0, Ordering::Relaxed);
    }

    /// How what is free compares with the limit below which publishers wait. What a checkpoint found too little is not
    /// enough, whatever the limit: publishers would fill slots that are not used again.
    pub fn level(&self, free_bytes: u64, limit_bytes: u64) -> Level {
        level(free_bytes, limit_bytes.max(self.too_little_bytes.load(Ordering::Relaxed)))
    }

    fn of_reserve(&self) -> u64 {
        if self.ballast.is_held() { self.slot_bytes } else { 0 }
    }

    /// Whether the log may be given so much in one hold. A batch for which there is never room keeps everything behind it
    /// from being durable, also what would give room back: nothing of it may reach the log. What is not large always may.
    pub fn lets_hold(&self, bytes: u64) -> bool {
        if bytes <= LARGE_HOLD_BYTES_MIN.max(self.slot_bytes / 2) {
            return true;
        }
        let less = |left: u64| if left == u64::MAX { Some(left) } else { left.checked_sub(bytes) };
        // Counted first: a look in between finds it.
        let is_known = self.large_holds_bytes.load(Ordering::Relaxed) != u64::MAX;
        let counted_bytes = if is_known { bytes } else { 0 };
        self.let_bytes.fetch_add(counted_bytes, Ordering::Relaxed);
        let lets = self.large_holds_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
        if !lets {
            let back = |let_bytes: u64| Some(let_bytes.saturating_sub(counted_bytes));
            let _always_some = self.let_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
        }
        lets
    }

    /// Looks how much is free.
    ///
    /// # Errors
    /// What the disk says.
    pub fn look(&self, alarms: &Alarms) -> Result<Means, StoreError> {
        let free_bytes = self.disk.free_bytes().map_err(StoreError::io("measure", "the data directory"))?;
        let is_short = alarms.is_raised(Shortage::Disk);
        Ok(Means { free_bytes, slot_bytes: self.slot_bytes, is_short, has_reserve: self.ballast.is_held() })
    }

    /// Gives up the reserve if it was room on the disk that was refused. As [`Room::give_reserve`].
    ///
    /// # Errors
    /// What the disk says.
    pub fn give_reserve_for(&self, refused: &StoreError, to: &'static str) -> Result<bool, StoreError> {
        if refused.is_full() && !refused.lacks_descriptors() { self.give_reserve(to) } else { Ok(false) }
    }

    /// Gives up the reserve. Whether there was one: then what was refused is tried again at once.
    ///
    /// # Errors
    /// What the disk says.
    pub fn give_reserve(&self, to: &'static str) -> Result<bool, StoreError> {
        let was_there = self.ballast.release()?;
        if was_there {
            tracing::warn!(to, "the disk is full: the reserve is used up");
        }
        Ok(was_there)
    }

    /// Takes the reserve again when there is plenty.
    ///
    /// # Errors
    /// What the disk says, unless it is full meanwhile.
    pub fn take_reserve(&self) -> Result<(), StoreError> {
        self.ballast.restore()
    }
}

impl Means {
    /// How much is free, without the reserve.
    pub fn free_bytes(&self) -> u64 {
        self.free_bytes
    }

    /// Whether the alarm is on.
    pub fn is_short(&self) -> bool {
        self.is_short
    }

    /// How many slots a checkpoint takes over at once, when so many are in use. In portions: publishers that are held
    /// back get some slots soon, and not all of them late.
    pub fn slots_at_once(&self, in_use: usize, window: usize) -> usize {
        if self.is_short { 1 } else { in_use.saturating_sub(window / 2).clamp(1, window.div_ceil(2)) }
    }

    /// What may be written now that need not be: it must leave to others what they cannot do without.
    pub fn spare_bytes(&self) -> u64 {
        if self.has_reserve { self.free_bytes } else { self.free_bytes / 2 }
    }

    /// The same, with the reserve given up.
    #[must_use]
    pub fn with_reserve(self) -> Self {
        let reserve_bytes = if self.has_reserve { reserve_bytes(self.slot_bytes) } else { 0 };
        Self { free_bytes: self.free_bytes + reserve_bytes, has_reserve: false, ..self }
    }

    /// What one merge takes of its packs, unless a single one has more: others wait for the thread that does it.
    pub fn merge_bytes(&self) -> u64 {
        self.spare_bytes().min(self.slot_bytes)
    }

    /// Whether a pack of which so many messages live is worth merging.
    pub fn is_sparse(&self, live: u64, count: u64) -> bool {
        let (share, of) = if self.is_short { LIVE_SHARE_MIN_SHORT } else { LIVE_SHARE_MIN };
        live > 0 && u128::from(live) * u128::from(of) < u128::from(count) * u128::from(share)
    }

    /// Whether messages that no restart needs may be written.
    pub fn lets_spill(&self) -> bool {
        self.free_bytes >= 2 * reserve_bytes(self.slot_bytes)
    }
}

fn reserve_bytes(slot_bytes: u64) -> u64 {
    RESERVE_SLOTS * slot_bytes + RESERVE_TABLES_BYTES
}

/// How many bytes the holds of the log may have, before the next look, that are too large to go on in any case. What still
/// waits when its slot is to be used again is written once more, to a pack, before the slot gives its room back: half of
/// what is free, less some for what stands around them in files.
fn for_large_holds(free_bytes: u64, limit_bytes: u64, is_short: bool) -> u64 {
    let kept_bytes = if is_short { limit_bytes / 2 } else { 0 };
    free_bytes.saturating_sub(kept_bytes.max(RESERVE_TABLES_BYTES)) / 2
}

/// How many bytes of dead letters may go on before the next look: nobody asks them to wait, and each is written once more
/// before it goes where it was. Some of what is above half the limit: what is left is for acknowledgements, and for what
/// gives room back. See [`lets_dead_letter`].
pub fn for_dead_letters(free_bytes: u64, limit_bytes: u64, is_short: bool) -> u64 {
    match is_short {
        true => free_bytes.saturating_sub(limit_bytes / 2) / DEAD_LETTERS_SHARE,
        false => u64::MAX,
    }
}

/// Whether a dead letter of so many bytes goes on while so many are allowed: it may have more than the part that is left,
/// and not more than that is a part of.
pub fn lets_dead_letter(bytes: u64, allowed_bytes: u64) -> bool {
    allowed_bytes > 0 && bytes <= allowed_bytes.saturating_mul(DEAD_LETTERS_SHARE)
}

fn level(free_bytes: u64, limit_bytes: u64) -> Level {
    if free_bytes < limit_bytes {
        Level::Short
    } else if free_bytes / 10 * PLENTY_TENTHS >= limit_bytes {
        Level::Plenty
    } else {
        Level::Between
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Means, Room, for_dead_letters, lets_dead_letter, level, reserve_bytes};
    use crate::broker::alarms::Level;
    use crate::storage::disk::simulated::SimulatedDisk;

    const MEANS: Means = Means { free_bytes: 1000, slot_bytes: 100, is_short: false, has_reserve: true };
    const SHORT: Means = Means { is_short: true, ..MEANS };

    #[test]
    fn less_of_a_pack_needs_to_be_dead_when_room_is_short() {
        for (live, is_sparse, is_sparse_when_short) in [
            (0, false, false),
            (1, true, true),
            (24, true, true),
            (25, false, true),
            (74, false, true),
            (75, false, false),
        ] {
            assert_eq!(
                (MEANS.is_sparse(live, 100), SHORT.is_sparse(live, 100)),
                (is_sparse, is_sparse_when_short),
                "{live}"
            );
        }
    }

    #[test]
    fn half_of_what_is_free_is_left_to_others_when_there_is_no_reserve() {
        assert_eq!(MEANS.spare_bytes(), 1000);
        assert_eq!(Means { has_reserve: false, ..MEANS }.spare_bytes(), 500);
        assert_eq!(MEANS.merge_bytes(), 100);
        assert_eq!(Means { free_bytes: 60, ..MEANS }.merge_bytes(), 60);
    }

    #[test]
    fn slots_are_taken_over_in_portions_and_one_by_one_when_room_is_short() {
        for (in_use, at_once) in [(1, 1), (8, 4), (12, 4), (16, 4)] {
            assert_eq!(MEANS.slots_at_once(in_use, 8), at_once, "{in_use}");
            assert_eq!(SHORT.slots_at_once(in_use, 8), 1, "{in_use}");
        }
    }

    #[test]
    fn messages_are_spilled_while_twice_the_reserve_is_free() {
        let twice = 2 * reserve_bytes(SHORT.slot_bytes);
        assert!(Means { free_bytes: twice, ..SHORT }.lets_spill());
        assert!(!Means { free_bytes: twice - 1, ..SHORT }.lets_spill());
    }

    #[test]
    fn large_holds_have_what_is_free_or_a_slot_of_the_reserve_until_the_next_look() {
        const SLOT: u64 = 8 << 20;
        let room = Room::new(Arc::new(SimulatedDisk::new()), SLOT);
        assert!(room.lets_hold(u64::MAX), "nobody has looked yet");
        let (free, limit) = (204 << 20, 40 << 20);
        room.measured(free, limit, false, 10 << 20);
        assert!(!room.lets_hold(91 << 20), "what a slot needs to be used again is left");
        assert!(
            room.lets_hold(80 << 20) && !room.lets_hold(11 << 20),
            "what one has had another cannot have"
        );
        room.measured(limit - 2, limit, true, 0);
        assert!(!room.lets_hold(SLOT), "the 80 MiB may not have come to the log yet");
        room.measured(limit - 2, limit, true, 0);
        assert!(!room.lets_hold(limit / 4) && room.lets_hold(limit / 4 - 1));
        room.refused(0);
        assert!(!room.lets_hold(SLOT / 2 + 1) && room.lets_hold(SLOT / 2), "what is small goes in any case");
        room.take_reserve().unwrap();
        room.refused(0);
        assert!(!room.lets_hold(SLOT + 1) && room.lets_hold(SLOT) && !room.lets_hold(SLOT));
    }

    #[test]
    fn dead_letters_leave_half_of_the_limit_alone() {
        for (free, is_short, expected) in
            [(0, true, 0), (50, true, 0), (90, true, 10), (99, true, 12), (0, false, u64::MAX)]
        {
            assert_eq!(for_dead_letters(free, 100, is_short), expected, "{free}");
        }
    }

    #[test]
    fn a_dead_letter_has_no_more_than_what_is_above_half_of_the_limit() {
        for (bytes, allowed, lets) in [
            (0, 0, false),
            (0, 1, true),
            (4, 1, true),
            (5, 1, false),
            (40, 10, true),
            (u64::MAX, u64::MAX, true),
        ] {
            assert_eq!(lets_dead_letter(bytes, allowed), lets, "{bytes} of {allowed}");
        }
    }

    #[test]
    fn an_alarm_ends_well_above_the_limit() {
        for (free, expected) in
            [(99, Level::Short), (100, Level::Between), (119, Level::Between), (120, Level::Plenty)]
        {
            assert_eq!(level(free, 100), expected, "{free}");
        }
    }
}
