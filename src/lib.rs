//! SluiceMQ: a message broker for the AMQP 0-9-1 clients that exist.
//!
//! Publishers hand work over and go on; consumers take it when they can. This page is the map: what the rooms
//! are, in the order in which to read them, a message's way through them, and what always holds.
//!
//! # Shape: synchronous core, async rim
//!
//! One call stack carries a frame from the socket's buffer into a queue and on into a consumer's outbox. Only
//! [`net`], [`mgmt`], [mod@bench] and [`cli`] are async; every lock is short, nothing waits under one, and time is an
//! argument.
//! A test runs the whole broker in one thread with a clock it makes up.
//!
//! # The rooms, from the ground up
//!
//! Imports point to rooms named earlier, never later; rooms of one line never import each other.
//! `tests/arrows.rs` holds that.
//!
//! 1. [`clock`] is the only reader of the time; [`config`] one typed tree, checked as a whole; [`stats`] counters.
//! 2. [`protocol`]: bytes, and no broker's words. One table of 66 methods drives parsing and encoding.
//! 3. [`message`]: how messages lie in memory, the only room that knows. [`routing`]: tables from keys to targets.
//! 4. [`queue`]: order, counts and turns as pure state machines. [`auth`]: who may do what. [`storage`]: the disk, the
//!    log, packs and tables; the only user of files.
//! 5. [`broker`]: virtual hosts, exchanges, the locks around queues, outboxes, credit; and what administrators say.
//! 6. [`session`]: one AMQP connection as a state machine, bytes in and bytes out.
//! 7. [`transfer`]: messages that the broker moves itself, by two sessions each.
//! 8. [`tls`]: certificates, and the handshakes of whoever comes by them.
//! 9. [`net`]: sockets and tasks. [`mgmt`]: the management API and metrics, over HTTP. [mod@bench]: a load tool for any
//!    AMQP broker.
//! 10. [`cli`]: what a person types: to start the broker, and (`ctl`) to one that runs.
//!
//! Beside them: `tests/amqp` asks frame by frame (this broker or another), `tests/sim` plays the whole broker in one
//! thread against a model, `tests/adversary` tries to stop or starve others and counts steps, `conformance` drives stock
//! client libraries, `fuzz` feeds the parsers and whole sessions.
//!
//! # A publish, hop by hop
//!
//! ```text
//!  socket
//!    |  net::connection         read into a buffer, about a quarter of a MiB a turn at most
//!    v
//!  session::Session::on_bytes   a frame is a view into the buffer
//!    |  session::cut            large bodies are cut out of it, and not copied, where they are most of what comes
//!    |  session::express        whole publishes; those that begin with the octets of the one before are not parsed
//!    v
//!  session::channel::publish    method + header + body = content, checked
//!    |  session::link           route: cached per exchange and key until definitions change
//!    v
//!  broker::publish::Burst       small messages for the same queues are copied into one block
//!    |
//!    |  ---- end of the read chunk, once for all its messages; session::work, so many steps in a turn ----
//!    v
//!  reserve -> append -> enqueue   does the queue take it; the fact to the log; the run into the queue
//!    v
//!  broker::queue::dispatch      next ready consumer, its credit and its outbox's room, under one lock
//!    v
//!  broker::outbox               one wake a burst:  ==== the only task hop ====
//!    v
//!  session::channel::deliver    delivery tags, frames; like the last ones but for tag and body, they are copied
//!    v
//!  net::connection              one vectored write
//! ```
//!
//! A confirm goes back when [`storage::log::Log::durable`] has reached the burst's position; a persistent message
//! is delivered by the same comparison. One thread commits: what gathered while it synced is its next batch. The wakes
//! that follow are the publishers' own, and each releases what it published.
//!
//! # What is on the disk
//!
//! ```text
//!   facts --> log: slots, written round and round        broker::recover: tables, then the log's facts, make the state
//!               |
//!               | broker::checkpoint, when a window of slots is full
//!               v
//!   packs (messages that wait) + tables (definitions, where messages lie, what is settled)
//! ```
//!
//! A queue's ledger knows where each of its persistent messages lies. Their bytes may leave memory at any time once they
//! are durable ([`broker::evict`]); a queue that meets such messages at its head has them read back
//! ([`broker::read_ahead`]) before anyone gets them. Who has them in hand and has not acknowledged them needs only their
//! numbers ([`session::channel::unacked`]).
//!
//! # Invariants
//!
//! 1. Only `tls`, `net`, `mgmt`, `bench`, `cli` and `main` name tokio; below `net` only `storage/disk/real.rs` and
//!    `tls/files.rs` touch a file, and only `clock` reads a clock. (Backoff and heartbeats are told the time.)
//! 2. A queue's state machine never calls a broker, a log or another queue: it answers, and its owner acts.
//! 3. Locks: who changes parameters, then one virtual host's definitions, then one queue, then one leaf (an outbox, an
//!    exchange's history or the log).
//!    None is held across an await, and no registry's guard across a lock. Registries are not on the message path.
//! 4. A broker's refusal becomes a reply code in one place, `session/refuse.rs`.
//! 5. Every buffer, table, queue and loop has a named bound; nothing is allocated by a number that a peer declared.
//! 6. A confirm is sent, and a persistent message of a durable queue delivered, only for a position of the log that
//!    is durable.
//! 7. Sequence numbers, the redelivered flag and the place to return to belong to the queue; delivery tags to the
//!    session.
//! 8. Log before state, reserve before append. A hold of the log is there after a crash as a whole or not at all.
//! 9. Pack durable, tables durable, places moved, readers gone, slots reused: in this order. The tables are never
//!    ahead of the log. A failed write or sync of the log is final: nothing is durable after it, and the process ends.
//!    So it does when a thread or task panics that the store depends on (`net::essential`).
//! 10. What takes long (a password's hash, a disk) is asked for and answered by an input, never waited for.
//! 11. No hold of a lock and no turn of a connection takes more than about a thousand steps (messages, runs, queues,
//!     bindings, consumers), whatever a peer sends or how much waits: [`broker::wakes`] counts them, `session::work` cuts
//!     what would be longer, and nothing more is taken from the client until it is done. Who waits for room or a window
//!     stands in a [mod@broker::line] and is served in turn. One message's routing, and what one hold of the log must
//!     hold together (a fan-out's targets, a transaction), are not cut: they are counted, and end the turn. A message
//!     that topic patterns would keep for longer is refused ([`routing::MATCH_STEPS_MAX`]).
//! 12. Who watches costs messages nothing (but who traces a virtual host), and that they are counted a hundredth or two:
//!     what is told of queues, channels and connections is written where it happens, by whoever is at it, as plain
//!     numbers ([`broker::queue::tally`], [`broker::presence`]), and sums are made by whoever asks.
//! 13. No `unsafe`; no `unwrap` and no indexing on anything a peer or a user can influence.
//!
//! # Where something new touches the house
//!
//! **An argument of queues** (`x-...`). In `broker::arguments`, where each is a line of a table: its check, the kinds of
//! queues that take it, and whether two declarations must agree about it. What it says becomes a field of
//! [`queue::settings::Settings`], one value that is swapped as a whole. Who acts on it: `broker::queue::rules` after each
//! delivery (what is dropped is told to the log like what is settled, and what is dead-lettered waits in
//! [`queue::dying`] for [`broker::dead_letters`]); time asks by [`broker::deadlines`]; what concerns publishers is a bit of
//! the queue's handle. Arguments are kept as they were declared, so that a restart finds it without a new format. Then
//! a test of frames (`tests/amqp`, which a RabbitMQ must pass too), the model's prediction (`tests/sim/model`), and a case
//! of `conformance`.
//!
//! **A kind of exchange.** In `routing`: a name in `ExchangeKind`, and a file of its own with the tables from keys to
//! targets, beside `fanout` (the shortest) and `topic`; `Bindings` hands over to it. One that decides by more than exchange
//! and key says so in `Bindings::is_by_key`, for routes are cached by those two ([`session::link`]); one that chooses among
//! its targets keeps them in a `Roll`, whose order is the same in every process. Arguments of its own are checked by
//! `ExchangeKind::check_arguments`. It counts its steps. The property tests of `routing` compare every kind with a naive
//! one, `tests/sim/model/routing.rs` does it once more. Its definition is kept by name; a version that does not know it
//! leaves it out and says so. What it keeps of messages is not for tables, but a part of its `broker::exchange` (as
//! [`broker::history`] is).
//!
//! **A method, or an argument of one.** In the table of `protocol::methods`, which makes parser and encoder; in
//! `session::channel`, in the file of its class; a refusal of a new kind in `session::refuse`.
//!
//! **What administrators say.** A parameter ([`broker::admin`]): a component of a virtual host or of the whole broker, whose
//! value is a field table, so that log and tables need no new format. One that acts on queues is a key of policies
//! (`broker::policy::keys`), which reaches them under the name of the argument with `x-` before it.
//!
//! What a parameter makes the broker do is another room's (a `shovel` is [`transfer`]'s, which is told that parameters
//! may have changed and compares).
//!
//! **A route of the management API.** A line of the table in `mgmt::routes`, which says who may ask and what it is, and a
//! function in `mgmt::views`; `tests/mgmt` wants it in its own table of who is let in.
//!
//! **A verb of `sluicemq ctl`.** A line of a table in `cli::ctl::verbs`, and a function beside it that asks the management
//! API: what a broker is asked for the first time is a route before it is a verb. `tests/cli/ctl` compares both with
//! RabbitMQ's.
//!
//! **A setting.** A limit is a line of the table in [`config::limits`], which makes the reader, the variable, and what
//! `sluicemq config` prints. Anything else is a field of [`config`], with its variable and its comment. One that can change
//! while the broker runs is named in `Config::with_live`, and read anew by `cli/reload.rs`, which checks all before it
//! changes any.
//!
//! # Where this departs from what one may expect: design
//!
//! * Messages that are on the disk only are brought back by their queue, not by the connection that will send them:
//!   competing consumers share the read, runs always have their bytes, and sessions do not know the disk.
//! * Messages wait in runs of shared blocks, not as objects: see [`message::run`].
//! * A queue with priorities has no lanes: the priority is in the upper bits of a message's number, so that the one list
//!   in order of numbers, the ledger, packs and a restart have the right order and know of no priorities.
//! * A quorum queue is a classic one that keeps all, counts what comes back and serves it in the order of its return: first
//!   where there is a delivery limit or its channel has ended, and otherwise behind what was there, as in RabbitMQ. What
//!   has left memory meanwhile, or finds no room among a thousand others or four MiB of them, returns to its old place. A
//!   start counts no return. Limits are exact.
//!   Priorities it has none, as in RabbitMQ before 4.0.
//! * What dies is not taken out of the ledger before it is somewhere else, in the same hold of the log. So dead letters
//!   of all kinds survive a crash on their way. One that goes nowhere, or is refused where it goes, is gone; where
//!   `x-dead-letter-strategy` is `at-least-once` it stays and is tried again each second. It goes to all of its queues
//!   at once, when each has a place for it, so that none gets it twice.
//! * An alarm is raised by whoever sees it and cleared by a look, well below its limit and a second later: see
//!   [`broker::alarms`]. During one a client is read up to its next message, or binding, which may repeat many:
//!   acknowledgements and commits are what gives memory back. What open transactions hold raises none. A client that
//!   is not read further is not dead: what it leaves in its socket tells ([`session::heartbeat`]). One that has shut
//!   its side is gone, with what it had sent and nobody had read: its queues and what it held are for others now, and
//!   not when the alarm ends.
//! * Of large messages that are on their way in and find no more room one after the other is read on, and the others wait
//!   ([`broker::uploads`]): if all went on memory had no bound, and if all waited none would ever be whole.
//! * What is deleted is gone at once: the log is told, nobody finds it, routing passes it over. Its bindings and messages
//!   go after it in steps ([`broker::vhost::removal`], [`broker::remains`]), and others run in between. A queue with dead
//!   letters is deleted when those that were dead have gone ([`broker::queue::letters`]): nobody would know where they are.
//! * What comes back to a queue in one piece is up to a thousand runs; others may see the first thousand before the rest.
//! * Definitions are not captured by a checkpoint: the log remembers those of each slot, and the tables take them in
//!   the log's order. Only queues that a slot names are visited.
//! * The log's window is soft. A burst may fill half a window more before a checkpoint takes the disk from it. When that
//!   is late more slots are made, publishers of persistent messages are not read past two windows, and settles and
//!   definitions always find room while the disk has any. As many slots as a burst needed are kept for the next one.
//! * Pack blocks are checked whenever they are read, and all of them by `fsck`; nothing reads them in the background
//!   for that alone. No hole is punched into a pack: those with little left in them are merged when the log
//!   needs no slots back, and during an alarm before less is left.
//! * What several queues have is in a pack once, as in the log, from five queues or 4 KiB on; where less than all of a
//!   block lives in them, a few times.
//! * What is done with how much free space is decided in one place ([`broker::room`]): publishers, spare slots, spills,
//!   merges and the reserve. A transaction, or a large message, for which there is no room is refused: the log has one
//!   order, and nothing behind it would be durable. What the disk does not let go of is tried again, and keeps nobody
//!   from anything. A start on a disk without room removes what nobody needs, then uses up the reserve
//!   (`storage::ballast`), and checkpoints nothing before it is up; where even a short slot does not fit it is refused.
//! * The disk is a trait object: one virtual call a batch costs nothing, and no room above is generic in it. A broker
//!   without a data directory runs the same code on a disk in memory that forgets.
//! * Users and virtual hosts of the configuration are for an empty data directory only: from then on they are facts like
//!   queues are. What a user may do is looked up for each method in one value that is swapped under all who are logged in;
//!   what connections have cached about it is a part of their routes, and goes with them.
//! * Facts carry no group, term and index: a replicated log's records will have kinds of their own.
//! * Who moves messages for an operator is a client like any, for its rights, credit and alarms; but what it gives back
//!   nobody has had: place, flag and count are as they were ([`session::Session::move_only`]). So a queue can be looked
//!   through without a second way to its messages. Whoever sets a shovel is kept with its parameter, and not shown.
//! * A connection is generic in its stream: a plain one reads and writes its socket with nothing between, and a session
//!   does not know which it is. TLS handshakes are signed beside the runtime's workers, by half of the machine at most.
//! * Who comes by WebSocket is let in by the management API and served by [`net`], which are strangers to each other: `cli`
//!   lends the one to the other. A frame's octets are taken as they come, for none is collected by the length it declares.
//! * The load tool is one process for both sides unless told otherwise, and a task for each connection.
//! * Identity: `product` and `version` in the server properties say RabbitMQ 3.13, because client libraries decide
//!   by them how to behave; `platform` and `information` say who is there. Both are configuration.
//!
//! # Where it departs: tuning
//!
//! What was measured, and could be otherwise tomorrow (`tests/bench/README.md`).
//!
//! * A connection's turn is counted in bytes, not in reads, and what it writes counts too, and so do the session's
//!   steps: a client that keeps up takes a whole backlog without its socket ever being full.
//! * Every second turn that was long leaves its task in the worker's queue, where another worker may take it. The
//!   runtime's own yield, which ends the others, asks the sockets, but wakes that worker for nothing.
//! * Who publishes faster than consumers with credit are written to is not read for a moment ([`broker::queue::crowd`]),
//!   10 ms at most, and when that was in vain not again for the same backlog: a slow consumer's queue is a buffer. A
//!   flood waits in its publisher's socket; its messages are a third to a fifteenth as late, and as many (16 KiB: 5 %
//!   fewer).
//! * Of a client that floods us 128 KiB are read at once, not 64: large bodies come a tenth faster. With 256 many
//!   queues in turn gain as much, but quiet neighbours wait longer.
//! * What is cut out of a read buffer keeps all of it in memory, and only its own bytes are charged. So bodies are cut,
//!   from 16 KiB on, where they are most of what arrives, and what is less than half a buffer is copied where consumers
//!   do not take it at once.
//! * What is freed goes back to the system when a thread that wants nothing else asks for more memory than there can be:
//!   the allocator would do it in some connection's turn, and in a silent broker not at all.
//! * The spare slot is written with zeros first only while batches are small: large ones cost no more in new blocks
//!   than the zeros would. It is done in steps that are synced, for a commit waits behind what the disk was given.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]
// What a queue, a consumer and an outbox know of each other is deeper than 128 types, which the documentation looks through.
#![recursion_limit = "256"]

pub mod auth;
#[cfg(feature = "cli")]
pub mod bench;
pub mod broker;
#[cfg(feature = "cli")]
pub mod cli;
pub mod clock;
pub mod config;
pub mod message;
#[cfg(feature = "cli")]
pub mod mgmt;
pub mod net;
pub mod protocol;
pub mod queue;
pub mod routing;
pub mod session;
pub mod stats;
pub mod storage;
pub mod tls;
pub mod transfer;
