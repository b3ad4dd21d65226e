//! GPUs of compute capability 9.0. A plan has five allocations; the steps of an entry are launches on one stream. When a plan is
//! opened, they are recorded as graphs of several step sizes; a step allocates nothing.
//!
//! A step uploads counts and step tables in one copy, and settings for drawing tokens if there are any; replays the graph of
//! its size, or launches each step separately; and downloads one token per row of logits, or the rows that the host
//! needs. All of it goes through a [`driver::Driver`].

mod cubin;
mod draw_kernels;
pub mod driver;
mod fault;
mod guards;
#[cfg(feature = "cuda")]
mod nvidia;
mod open;
mod rows;
mod run;
mod tables;
mod weights;

use std::cell::RefCell;
use std::collections::BTreeMap;

use jamba_plan::format::{Limits, Memory, Pick, Program, Table};
use jamba_plan::graphs::{self as sizes, Graph};

use self::driver::{Driver, DriverError, GraphId};
use self::fault::Fault;
use self::guards::Guards;
use self::rows::Rows;
use self::run::{Arguments, Run};
use self::tables::Tables;
use super::{Addresses, Counts, Device, NAN_BYTE, Piece, Settings};
use crate::RuntimeError;
use crate::check::Broken;
use crate::trace::Trace;

/// A GPU with an open plan.
pub(crate) struct Gpu {
    /// In a cell because [`Device::read`] takes `&self` and needs the driver.
    live: RefCell<Live>,
    /// The process that opened the device.
    process: u32,
    /// Name for messages.
    name: String,
    n_sms: u32,
    limits: Limits,
    /// Bytes of the pools of state slots and of KV pages.
    pool_bytes: (u64, u64),
    memory: Memory,
    program: Program,
    /// Of the five allocations; `tables` is the region of counts and step tables.
    pools: Addresses,
    tables: Tables,
    /// Arguments of each entry.
    entries: Vec<Arguments>,
    /// The recorded step sizes. A graph serves every step of its size: grids are those of the size, and kernels read the exact counts from
    /// memory.
    graphs: BTreeMap<Graph, GraphId>,
    /// Results of the last run.
    rows: Rows,
    /// Guards around the allocations, if steps are checked.
    guards: Option<Guards>,
    broken: Option<RuntimeError>,
    checked: bool,
}

/// A driver and its first fault. After a fault the driver is not called any more.
struct Live {
    driver: Box<dyn Driver>,
    fault: Option<Fault>,
}

impl Live {
    /// Runs an action that returns nothing. [`Device::health`] reports its error.
    fn attempt(&mut self, what: &'static str, action: impl FnOnce(&mut dyn Driver) -> Result<(), DriverError>) {
        if self.fault.is_none() {
            self.fault = action(&mut *self.driver).err().map(|error| Fault::of_call(what, error));
        }
    }
}

impl Gpu {
    /// Address of a piece and its size in bytes.
    fn place(&self, piece: Piece) -> (u64, u64) {
        let (pool, index, bytes) = match piece {
            Piece::Slot(slot) => (self.pools.state, slot, self.memory.state_slot),
            Piece::Page(page) => (self.pools.kv, page, self.memory.kv_page),
        };
        (pool + u64::from(index) * bytes, bytes)
    }

    /// Records all graphs. Steps whose graphs find no memory are launched one by one.
    fn record_graphs(&mut self) -> Result<(), Fault> {
        let driver = &mut *self.live.get_mut().driver;
        for size in sizes::all(&self.program.entries) {
            let (program, entry) = (&self.program, size.entry);
            let mut run =
                Run { driver, n_sms: self.n_sms, program, entry, arguments: &self.entries[entry], size, guards: None };
            let Some(graph) = run.record()? else { break };
            self.graphs.insert(size, graph);
        }
        Ok(())
    }

    fn attempt(&mut self, what: &'static str, action: impl FnOnce(&mut dyn Driver) -> Result<(), DriverError>) {
        self.live.get_mut().attempt(what, action);
    }

    /// Uploads the step's tables, runs it, and downloads its tokens or rows of logits.
    fn step(
        &mut self,
        index: usize,
        counts: Counts,
        settings: Settings<'_>,
        trace: Option<&mut Trace>,
    ) -> Result<Option<Broken>, Fault> {
        let driver = &mut *self.live.get_mut().driver;
        let entry = &self.program.entries[index];
        let pick = self.rows.pick(entry, settings);
        let copied = |error| Fault::of_call("copying the step tables", error);
        driver.upload(self.pools.tables, self.tables.image(counts)).map_err(copied)?;
        if pick == Some(Pick::Drawn) {
            let (at, bytes) = self.tables.settings(&self.limits, settings);
            driver.upload(self.pools.tables + at, bytes).map_err(copied)?;
        }
        if self.checked && self.memory.arena > 0 {
            let filled = driver.fill(self.pools.arena, self.memory.arena, NAN_BYTE);
            filled.map_err(|error| Fault::of_call("clearing the arena", error))?;
        }
        let mut run = Run {
            driver,
            n_sms: self.n_sms,
            program: &self.program,
            entry: index,
            arguments: &self.entries[index],
            size: Graph::of(&self.program.entries, index, counts.all(), pick),
            guards: self.guards.as_ref(),
        };
        let broken = if self.checked || trace.is_some() {
            run.one_by_one(trace)?
        } else {
            run.all(&self.graphs)?;
            None
        };
        let brought = self.rows.bring(driver, (self.pools.arena, entry), counts.outputs, (pick, settings));
        brought.map_err(|error| Fault::of_run(&self.program, index, error))?;
        Ok(broken)
    }
}

impl Device for Gpu {
    fn table(&mut self, table: Table) -> &mut [i32] {
        self.tables.table(&self.limits, table)
    }

    fn clear(&mut self, piece: Piece) {
        let (at, bytes) = self.place(piece);
        let unwritten = if self.checked && matches!(piece, Piece::Page(_)) { NAN_BYTE } else { 0 };
        self.attempt("clearing state", |driver| driver.fill(at, bytes, unwritten));
    }

    fn discard(&mut self, piece: Piece) {
        if self.checked {
            let (at, bytes) = self.place(piece);
            self.attempt("clearing state", |driver| driver.fill(at, bytes, NAN_BYTE));
        }
    }

    fn copy(&mut self, from: Piece, to: Piece) {
        let ((from, bytes), (to, _)) = (self.place(from), self.place(to));
        self.attempt("copying state", |driver| driver.copy(from, to, bytes));
    }

    fn read(&self, piece: Piece, bytes: &mut [u8]) {
        let (at, _) = self.place(piece);
        self.live.borrow_mut().attempt("reading state", |driver| driver.download(at, bytes));
    }

    fn write(&mut self, piece: Piece, bytes: &[u8]) {
        let (at, _) = self.place(piece);
        self.attempt("writing state", |driver| driver.upload(at, bytes));
    }

    fn run(
        &mut self,
        entry: usize,
        counts: Counts,
        settings: Settings<'_>,
        trace: Option<&mut Trace>,
    ) -> Result<(), RuntimeError> {
        self.health()?;
        match self.step(entry, counts, settings, trace) {
            Ok(None) => {}
            Ok(Some(broken)) => {
                self.broken.get_or_insert(broken.error(&self.program, entry));
            }
            Err(fault) => self.live.get_mut().fault = Some(fault),
        }
        self.health()
    }

    fn logits(&self, entry: usize, row: u64) -> &[f32] {
        self.rows.logits(self.program.entries[entry].logits, row)
    }

    fn token(&self, row: u64) -> Option<u32> {
        self.rows.token(row)
    }

    fn health(&self) -> Result<(), RuntimeError> {
        if self.process != std::process::id() {
            return Err(RuntimeError::Forked { opened_by: self.process });
        }
        self.live.borrow().fault.as_ref().map_or(Ok(()), |fault| Err(fault.error(&self.name)))
    }

    fn check_steps(&mut self) {
        self.checked = true;
        let (state, kv) = self.pool_bytes;
        for (at, bytes) in [(self.pools.state, state), (self.pools.kv, kv)] {
            if bytes > 0 {
                self.attempt("clearing state", |driver| driver.fill(at, bytes, NAN_BYTE));
            }
        }
    }

    fn broken_guard(&mut self) -> Option<RuntimeError> {
        self.broken.take()
    }
}
