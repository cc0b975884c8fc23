//! The tables, and how a checkpoint's changes become rows.
//!
//! ```text
//! meta       name -> number        format, replay position, next queue number, clean stop
//! parameters (vhost, component, name) -> version, the fact's body
//! exchanges  (vhost, name)      -> version, the fact's body
//! queues     queue              -> version, the fact's body
//! bindings   the fact's body    -> nothing: a binding is its own identity
//! bound      (vhost, exchange, the fact's body): the bindings of an exchange, at either end
//! rows       queue              -> (next number, delivered up to)
//! extents    (queue, lane, first number) -> (last, pack, offset, bytes, count, bytes of the bodies)
//! settled    (queue, lane, first number) -> bitmap; none when nothing is settled
//! returns    (queue, first number) -> (the number after the last, how often they came back)
//! packs      (pack, queue, lane, first number): the extents of a pack
//! ```
//!
//! A binding's body starts with its destination, so that those of a queue are neighbours.

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError,
    WriteTransaction,
};
use roaring::RoaringBitmap;

use crate::message::fact::{Binding, Definition, Destination, Fact, Parameter};
use crate::message::fact_codec::{self, DecodedFact};
use crate::message::place::{Extent, Lsn, QueueId, Returned, Seq};
use crate::storage::error::StoreError;
use crate::storage::log::{LoggedDefinition, ReplayFrom};
use crate::storage::meta::{Changes, Loaded, META_FILE, MetaState, QueueRow, damaged, failed};

const FORMAT: u64 = 1;
/// The version of definitions' values.
const VALUE_VERSION: u8 = 1;

type ParameterKey<'a> = (&'a str, &'a str, &'a str);
type ExtentKey = (u64, u32, u64);
type ExtentValue = (u64, u64, u64, u32, u32, u64);

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Came with administration: a directory may be without it until the next checkpoint.
const PARAMETERS: TableDefinition<'_, ParameterKey<'static>, &[u8]> = TableDefinition::new("defs_parameters");
const EXCHANGES: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("defs_exchanges");
const QUEUES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("defs_queues");
const BINDINGS: TableDefinition<'_, &[u8], ()> = TableDefinition::new("defs_bindings");
const BOUND: TableDefinition<'_, (&str, &str, &[u8]), ()> = TableDefinition::new("defs_bound");
const ROWS: TableDefinition<'_, u64, (u64, u64)> = TableDefinition::new("queues");
const EXTENTS: TableDefinition<'_, ExtentKey, ExtentValue> = TableDefinition::new("extents");
const SETTLED: TableDefinition<'_, ExtentKey, &[u8]> = TableDefinition::new("settled");
const PACKS: TableDefinition<'_, (u64, u64, u32, u64), ()> = TableDefinition::new("packs");
/// Came with quorum queues: a directory may be without it until the next checkpoint.
const RETURNS: TableDefinition<'_, (u64, u64), (u64, u16)> = TableDefinition::new("returns");

const KEY_FORMAT: &str = "format";
const KEY_REPLAY_SEQUENCE: &str = "replay_sequence";
const KEY_REPLAY_LSN: &str = "replay_lsn";
const KEY_NEXT_QUEUE_ID: &str = "next_queue_id";
const KEY_CLEAN: &str = "clean";

/// Makes all tables and says which format they are.
pub(super) fn write_format(database: &Database) -> Result<(), StoreError> {
    let transaction = begin_write(database)?;
    {
        let tables = Tables::open(&transaction)?;
        let mut meta = tables.meta;
        meta.insert(KEY_FORMAT, FORMAT).map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}

/// Refuses what a newer version wrote.
pub(super) fn check_format(database: &Database) -> Result<(), StoreError> {
    let transaction = database.begin_read().map_err(failed)?;
    let meta = transaction.open_table(META).map_err(failed)?;
    match number(&meta, KEY_FORMAT)? {
        Some(FORMAT) => Ok(()),
        Some(found) if found > FORMAT => Err(StoreError::Newer {
            file: META_FILE.to_owned(),
            found: u32::try_from(found).unwrap_or(u32::MAX),
            known: FORMAT as u32,
        }),
        _ => Err(damaged("it does not say which format it is")),
    }
}

fn number(meta: &impl ReadableTable<&'static str, u64>, key: &str) -> Result<Option<u64>, StoreError> {
    Ok(meta.get(key).map_err(failed)?.map(|value| value.value()))
}

/// Shows all rows: definitions, queues' rows, extents.
pub(super) fn load(
    database: &Database,
    on_loaded: &mut dyn FnMut(Loaded<'_>),
) -> Result<MetaState, StoreError> {
    let transaction = database.begin_read().map_err(failed)?;
    load_parameters(&transaction, on_loaded)?;
    let exchanges = transaction.open_table(EXCHANGES).map_err(failed)?;
    for row in exchanges.iter().map_err(failed)? {
        let (_, value) = row.map_err(failed)?;
        on_loaded(Loaded::Defined(decode_value(value.value())?));
    }
    let queues = transaction.open_table(QUEUES).map_err(failed)?;
    for row in queues.iter().map_err(failed)? {
        let (_, value) = row.map_err(failed)?;
        on_loaded(Loaded::Defined(decode_value(value.value())?));
    }
    let bound = fact_codec::kind(&Fact::Defined(Definition::Bound(NO_BINDING)));
    for row in transaction.open_table(BINDINGS).map_err(failed)?.iter().map_err(failed)? {
        let (body, ()) = row.map(|(key, _)| (key, ())).map_err(failed)?;
        on_loaded(Loaded::Defined(decode_definition(bound, body.value())?));
    }
    for row in transaction.open_table(ROWS).map_err(failed)?.iter().map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        let (next_seq, delivered_hi) = value.value();
        let queue = QueueId(key.value());
        on_loaded(Loaded::Queue(QueueRow {
            queue,
            next_seq: Seq(next_seq),
            delivered_hi: Seq(delivered_hi),
        }));
    }
    let settled = transaction.open_table(SETTLED).map_err(failed)?;
    for row in transaction.open_table(EXTENTS).map_err(failed)?.iter().map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        let (queue, lane, first) = key.value();
        let (last, pack, offset, bytes, count, body_bytes) = value.value();
        let at = Extent { first: Seq(first), last: Seq(last), pack, offset, bytes, count, body_bytes };
        let settled = match settled.get(key.value()).map_err(failed)? {
            Some(bitmap) => read_bitmap(bitmap.value())?,
            None => RoaringBitmap::new(),
        };
        on_loaded(Loaded::Extent { queue: QueueId(queue), lane, at, settled });
    }
    load_returns(&transaction, on_loaded)?;
    let meta = transaction.open_table(META).map_err(failed)?;
    let replay = match (number(&meta, KEY_REPLAY_SEQUENCE)?, number(&meta, KEY_REPLAY_LSN)?) {
        (Some(sequence), Some(lsn)) => ReplayFrom { sequence, lsn: Lsn(lsn) },
        _ => ReplayFrom::START,
    };
    Ok(MetaState {
        replay,
        next_queue_id: number(&meta, KEY_NEXT_QUEUE_ID)?.unwrap_or(1),
        clean: number(&meta, KEY_CLEAN)?.map(Lsn),
    })
}

fn load_parameters(
    transaction: &ReadTransaction,
    on_loaded: &mut dyn FnMut(Loaded<'_>),
) -> Result<(), StoreError> {
    let parameters = match transaction.open_table(PARAMETERS) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        opened => opened.map_err(failed)?,
    };
    for row in parameters.iter().map_err(failed)? {
        let (_, value) = row.map_err(failed)?;
        on_loaded(Loaded::Defined(decode_value(value.value())?));
    }
    Ok(())
}

fn load_returns(
    transaction: &ReadTransaction,
    on_loaded: &mut dyn FnMut(Loaded<'_>),
) -> Result<(), StoreError> {
    let returns = match transaction.open_table(RETURNS) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        opened => opened.map_err(failed)?,
    };
    for row in returns.iter().map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        let ((queue, first), (end, returns)) = (key.value(), value.value());
        let returned = Returned { first: Seq(first), end: Seq(end), returns };
        on_loaded(Loaded::Returned { queue: QueueId(queue), returned });
    }
    Ok(())
}

const NO_BINDING: Binding<'static> =
    Binding { vhost: "", source: "", destination: Destination::Exchange(""), key: "", arguments: &[] };

/// The packs that have extents, ascending.
pub(super) fn packs(database: &Database) -> Result<Vec<u64>, StoreError> {
    let transaction = database.begin_read().map_err(failed)?;
    let table = transaction.open_table(PACKS).map_err(failed)?;
    let mut packs = Vec::new();
    let mut from = 0;
    while let Some(row) = table.range((from, 0, 0, 0)..).map_err(failed)?.next() {
        let (pack, ..) = row.map_err(failed)?.0.value();
        packs.push(pack);
        let Some(next) = pack.checked_add(1) else { break };
        from = next;
    }
    Ok(packs)
}

/// Begins a transaction that commits in two phases: its pages, then the header that makes them count. A start after a
/// crash is as quick as after a clean stop, however large the tables are.
fn begin_write(database: &Database) -> Result<WriteTransaction, StoreError> {
    let mut transaction = database.begin_write().map_err(failed)?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// One transaction.
pub(super) fn commit(database: &Database, changes: &Changes) -> Result<(), StoreError> {
    let transaction = begin_write(database)?;
    {
        let mut tables = Tables::open(&transaction)?;
        for definition in &changes.definitions {
            tables.define(definition)?;
        }
        for row in &changes.queues {
            // The queue may be defined by the log only: a clean stop does not wait for a checkpoint.
            tables.rows.insert(row.queue.0, (row.next_seq.0, row.delivered_hi.0)).map_err(failed)?;
        }
        tables.change_extents(changes)?;
        tables.change_returns(changes)?;
        tables.change_node(changes)?;
    }
    transaction.commit().map_err(failed)
}

/// All tables, open for writing.
struct Tables<'a> {
    meta: Table<'a, &'static str, u64>,
    parameters: Table<'a, ParameterKey<'static>, &'static [u8]>,
    exchanges: Table<'a, (&'static str, &'static str), &'static [u8]>,
    queues: Table<'a, u64, &'static [u8]>,
    bindings: Table<'a, &'static [u8], ()>,
    bound: Table<'a, (&'static str, &'static str, &'static [u8]), ()>,
    rows: Table<'a, u64, (u64, u64)>,
    extents: Table<'a, ExtentKey, ExtentValue>,
    settled: Table<'a, ExtentKey, &'static [u8]>,
    packs: Table<'a, (u64, u64, u32, u64), ()>,
    returns: Table<'a, (u64, u64), (u64, u16)>,
}

impl<'a> Tables<'a> {
    fn open(transaction: &'a WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            meta: transaction.open_table(META).map_err(failed)?,
            parameters: transaction.open_table(PARAMETERS).map_err(failed)?,
            exchanges: transaction.open_table(EXCHANGES).map_err(failed)?,
            queues: transaction.open_table(QUEUES).map_err(failed)?,
            bindings: transaction.open_table(BINDINGS).map_err(failed)?,
            bound: transaction.open_table(BOUND).map_err(failed)?,
            rows: transaction.open_table(ROWS).map_err(failed)?,
            extents: transaction.open_table(EXTENTS).map_err(failed)?,
            settled: transaction.open_table(SETTLED).map_err(failed)?,
            packs: transaction.open_table(PACKS).map_err(failed)?,
            returns: transaction.open_table(RETURNS).map_err(failed)?,
        })
    }

    fn is_defined(&self, queue: QueueId) -> Result<bool, StoreError> {
        Ok(self.queues.get(queue.0).map_err(failed)?.is_some())
    }

    /// Applies one definition: what it brings back or takes away twice changes nothing.
    fn define(&mut self, logged: &LoggedDefinition) -> Result<(), StoreError> {
        let body = &logged.body;
        match decode_definition(logged.kind, body)? {
            Definition::ExchangeDeclared { vhost, name, .. } => {
                let value = encode_value(logged.kind, body);
                self.exchanges.insert((vhost, name), value.as_slice()).map_err(failed)?;
            }
            Definition::ExchangeDeleted { vhost, name } => self.delete_exchange(vhost, name)?,
            Definition::QueueDeclared { queue, .. } => {
                let value = encode_value(logged.kind, body);
                self.queues.insert(queue.0, value.as_slice()).map_err(failed)?;
            }
            Definition::QueueDeleted { queue } => self.delete_queue(queue)?,
            Definition::Bound(binding) => self.bind(&binding, body)?,
            Definition::Unbound(binding) => self.unbind(&binding, body)?,
            Definition::ParameterSet { parameter: Parameter { vhost, component, name }, .. } => {
                let value = encode_value(logged.kind, body);
                self.parameters.insert((vhost, component, name), value.as_slice()).map_err(failed)?;
            }
            Definition::ParameterCleared { parameter: Parameter { vhost, component, name } } => {
                self.parameters.remove((vhost, component, name)).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn bind(&mut self, binding: &Binding<'_>, body: &[u8]) -> Result<(), StoreError> {
        self.bindings.insert(body, ()).map_err(failed)?;
        for exchange in ends(binding) {
            self.bound.insert((binding.vhost, exchange, body), ()).map_err(failed)?;
        }
        Ok(())
    }

    fn unbind(&mut self, binding: &Binding<'_>, body: &[u8]) -> Result<(), StoreError> {
        self.bindings.remove(body).map_err(failed)?;
        for exchange in ends(binding) {
            self.bound.remove((binding.vhost, exchange, body)).map_err(failed)?;
        }
        Ok(())
    }

    fn unbind_body(&mut self, body: &[u8]) -> Result<(), StoreError> {
        let bound = fact_codec::kind(&Fact::Defined(Definition::Bound(NO_BINDING)));
        match decode_definition(bound, body)? {
            Definition::Bound(binding) => self.unbind(&binding, body),
            _ => Err(damaged("a binding is something else")),
        }
    }

    fn delete_exchange(&mut self, vhost: &str, name: &str) -> Result<(), StoreError> {
        self.exchanges.remove((vhost, name)).map_err(failed)?;
        let mut bodies = Vec::new();
        for row in self.bound.range((vhost, name, &[][..])..).map_err(failed)? {
            let (key, _) = row.map_err(failed)?;
            let (of_vhost, exchange, body) = key.value();
            if (of_vhost, exchange) != (vhost, name) {
                break;
            }
            bodies.push(body.to_vec());
        }
        bodies.iter().try_for_each(|body| self.unbind_body(body))
    }

    fn delete_queue(&mut self, queue: QueueId) -> Result<(), StoreError> {
        self.queues.remove(queue.0).map_err(failed)?;
        self.rows.remove(queue.0).map_err(failed)?;
        let mut prefix = Vec::new();
        fact_codec::encode_destination(Destination::Queue(queue), &mut prefix);
        let mut bodies = Vec::new();
        for row in self.bindings.range(prefix.as_slice()..).map_err(failed)? {
            let (body, _) = row.map_err(failed)?;
            if !body.value().starts_with(&prefix) {
                break;
            }
            bodies.push(body.value().to_vec());
        }
        bodies.iter().try_for_each(|body| self.unbind_body(body))?;
        let mut keys = Vec::new();
        for row in self.extents.range((queue.0, 0, 0)..=(queue.0, u32::MAX, u64::MAX)).map_err(failed)? {
            keys.push(row.map_err(failed)?.0.value());
        }
        keys.into_iter().try_for_each(|key| self.forget_extent(key))?;
        self.returns.retain_in((queue.0, 0)..=(queue.0, u64::MAX), |_, _| false).map_err(failed)
    }

    fn forget_extent(&mut self, key: ExtentKey) -> Result<(), StoreError> {
        let pack = self.extents.remove(key).map_err(failed)?.map(|value| value.value().1);
        self.settled.remove(key).map_err(failed)?;
        if let Some(pack) = pack {
            self.packs.remove((pack, key.0, key.1, key.2)).map_err(failed)?;
        }
        Ok(())
    }

    fn change_extents(&mut self, changes: &Changes) -> Result<(), StoreError> {
        for &pack in &changes.packs_forgotten {
            let mut keys = Vec::new();
            let all = (pack, 0, 0, 0)..=(pack, u64::MAX, u32::MAX, u64::MAX);
            for row in self.packs.range(all).map_err(failed)? {
                let (_, queue, lane, first) = row.map_err(failed)?.0.value();
                keys.push((queue, lane, first));
            }
            keys.into_iter().try_for_each(|key| self.forget_extent(key))?;
        }
        for &(queue, lane, first) in &changes.extents_forgotten {
            self.forget_extent((queue.0, lane, first.0))?;
        }
        for extent in &changes.extents {
            let (record, at) = (&extent.record, extent.record.at);
            if !self.is_defined(record.queue)? {
                continue;
            }
            let key = (record.queue.0, record.lane, at.first.0);
            self.forget_extent(key)?;
            let value = (at.last.0, at.pack, at.offset, at.bytes, at.count, at.body_bytes);
            self.extents.insert(key, value).map_err(failed)?;
            self.packs.insert((at.pack, key.0, key.1, key.2), ()).map_err(failed)?;
            self.save_settled(key, &extent.gaps)?;
        }
        for (queue, lane, first, settled) in &changes.settled {
            self.save_settled((queue.0, *lane, first.0), settled)?;
        }
        Ok(())
    }

    fn change_returns(&mut self, changes: &Changes) -> Result<(), StoreError> {
        for (queue, first) in &changes.returns_forgotten {
            self.returns.remove((queue.0, first.0)).map_err(failed)?;
        }
        for (queue, Returned { first, end, returns }) in &changes.returns {
            if self.is_defined(*queue)? {
                self.returns.insert((queue.0, first.0), (end.0, *returns)).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn save_settled(&mut self, key: ExtentKey, settled: &RoaringBitmap) -> Result<(), StoreError> {
        if settled.is_empty() || self.extents.get(key).map_err(failed)?.is_none() {
            return Ok(());
        }
        let bytes = write_bitmap(settled)?;
        self.settled.insert(key, bytes.as_slice()).map_err(failed)?;
        Ok(())
    }

    fn change_node(&mut self, changes: &Changes) -> Result<(), StoreError> {
        if let Some(replay) = changes.replay {
            self.meta.insert(KEY_REPLAY_SEQUENCE, replay.sequence).map_err(failed)?;
            self.meta.insert(KEY_REPLAY_LSN, replay.lsn.0).map_err(failed)?;
        }
        if let Some(next) = changes.next_queue_id {
            self.meta.insert(KEY_NEXT_QUEUE_ID, next).map_err(failed)?;
        }
        match changes.clean {
            Some(lsn) => self.meta.insert(KEY_CLEAN, lsn.0).map_err(failed)?,
            None => self.meta.remove(KEY_CLEAN).map_err(failed)?,
        };
        Ok(())
    }
}

/// The exchanges at a binding's ends.
fn ends<'a>(binding: &Binding<'a>) -> impl Iterator<Item = &'a str> {
    let destination = match binding.destination {
        Destination::Exchange(name) => Some(name),
        Destination::Queue(_) => None,
    };
    std::iter::once(binding.source).chain(destination)
}

fn encode_value(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[VALUE_VERSION, kind], body].concat()
}

fn decode_value(value: &[u8]) -> Result<Definition<'_>, StoreError> {
    match value {
        [VALUE_VERSION, kind, body @ ..] => decode_definition(*kind, body),
        _ => Err(damaged("a definition of an unknown version")),
    }
}

fn decode_definition(kind: u8, body: &[u8]) -> Result<Definition<'_>, StoreError> {
    match fact_codec::decode(kind, body) {
        Ok(DecodedFact::Defined(definition)) => Ok(definition),
        Ok(_) => Err(damaged("a definition is another fact")),
        Err(error) => Err(damaged(error.to_string())),
    }
}

fn write_bitmap(bitmap: &RoaringBitmap) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::with_capacity(bitmap.serialized_size());
    bitmap.serialize_into(&mut bytes).map_err(|error| damaged(error.to_string()))?;
    Ok(bytes)
}

fn read_bitmap(bytes: &[u8]) -> Result<RoaringBitmap, StoreError> {
    RoaringBitmap::deserialize_from(bytes).map_err(|error| damaged(format!("a bitmap: {error}")))
}
