//! Operands of a compiled kernel: the type of each argument slot, what fills it, and how many elements it holds.

use std::ops::Range;

use jamba_plan::format::{self, Elem, Layout, PartOrder, Table, Transform};
pub use jamba_plan::format::{Access, Per};

pub use crate::hopper::{Swizzle, TensorMap};

/// One slot of a kernel's argument array, as its code sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum Param {
    /// An address.
    Buffer {
        /// Unique within a kernel.
        name: &'static str,
        /// Read or written.
        access: Access,
        /// Element type.
        elem: Elem,
        /// Inner extents; the outermost is dynamic: `[stride]` for rows, `[]` for a vector.
        inner: Vec<usize>,
    },
    /// An integer.
    Scalar {
        /// Unique within a kernel.
        name: &'static str,
    },
    /// The address of an i64 that a GPU kernel loads, so that captured launches can be replayed with other counts.
    Count {
        /// Unique within a kernel.
        name: &'static str,
    },
    /// The address of a tensor map, which describes a matrix to the copy engine of a GPU.
    TensorMap {
        /// Unique within a kernel.
        name: &'static str,
        /// The matrix and the boxes that are copied.
        map: TensorMap,
    },
}

impl Param {
    /// A buffer that is read.
    pub fn read(name: &'static str, elem: Elem, inner: &[usize]) -> Param {
        Param::Buffer { name, access: Access::Read, elem, inner: inner.to_vec() }
    }

    /// A buffer that is written.
    pub fn write(name: &'static str, elem: Elem, inner: &[usize]) -> Param {
        Param::Buffer { name, access: Access::Write, elem, inner: inner.to_vec() }
    }

    /// A buffer that is written and may alias an operand.
    pub fn write_over(name: &'static str, elem: Elem, inner: &[usize]) -> Param {
        Param::Buffer { name, access: Access::WriteOver, elem, inner: inner.to_vec() }
    }

    /// A buffer that is read and written.
    pub fn read_write(name: &'static str, elem: Elem, inner: &[usize]) -> Param {
        Param::Buffer { name, access: Access::ReadWrite, elem, inner: inner.to_vec() }
    }

    /// An integer.
    pub fn scalar(name: &'static str) -> Param {
        Param::Scalar { name }
    }

    /// The address of an integer.
    pub fn count(name: &'static str) -> Param {
        Param::Count { name }
    }

    /// A matrix that is read through a tensor map.
    pub fn tensor_map(name: &'static str, map: TensorMap) -> Param {
        Param::TensorMap { name, map }
    }

    /// The slot's name.
    pub fn name(&self) -> &'static str {
        match self {
            Param::Buffer { name, .. }
            | Param::Scalar { name }
            | Param::Count { name }
            | Param::TensorMap { name, .. } => name,
        }
    }

    /// How the slot is used; `None` for integers.
    pub fn access(&self) -> Option<Access> {
        match self {
            Param::Buffer { access, .. } => Some(*access),
            Param::TensorMap { .. } => Some(Access::Read),
            Param::Scalar { .. } | Param::Count { .. } => None,
        }
    }

    /// The element type of the slot's buffer or matrix; `None` for integers.
    pub fn elem(&self) -> Option<Elem> {
        match self {
            Param::Buffer { elem, .. } => Some(*elem),
            Param::TensorMap { map, .. } => Some(map.elem),
            Param::Scalar { .. } | Param::Count { .. } => None,
        }
    }

    /// Elements from one row to the next: the product of the inner extents, 1 for a vector.
    pub fn row_elements(&self) -> usize {
        match self {
            Param::Buffer { inner, .. } => inner.iter().product(),
            Param::TensorMap { map, .. } => map.row_bytes() * 8 / map.elem.bits(),
            Param::Scalar { .. } | Param::Count { .. } => 1,
        }
    }
}

/// Number of rows of an operand: `fixed + factor · n`, where n is the size of the dimension `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Rows whatever the step.
    pub fixed: usize,
    /// Rows for each one of `per`.
    pub factor: usize,
    /// The dimension that the extent scales with.
    pub per: Per,
}

impl Extent {
    /// Rows whatever the step.
    pub const fn fixed(rows: usize) -> Extent {
        Extent { fixed: rows, factor: 0, per: Per::Row }
    }

    /// `factor` rows for each one of `per`.
    pub const fn per(per: Per, factor: usize) -> Extent {
        Extent { fixed: 0, factor, per }
    }

    /// The number of rows where `size` gives the sizes of the dimensions; `None` where it overflows.
    pub fn rows(&self, size: impl FnOnce(Per) -> u64) -> Option<u64> {
        let scaled = if self.factor == 0 { 0 } else { size(self.per).checked_mul(self.factor as u64)? };
        scaled.checked_add(self.fixed as u64)
    }
}

/// Parameters of a node that are packed into one weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// The node's operands that hold them, in order.
    pub operands: Range<usize>,
    /// Rows of each part: the operands' rows, one after the other, cut into these.
    pub sizes: Vec<usize>,
    /// Order of the parts.
    pub order: PartOrder,
    /// Order of the elements.
    pub layout: Layout,
    /// Applied to the values before they are rounded.
    pub transform: Transform,
}

impl Weight {
    /// One parameter as it is.
    pub fn of(operand: usize, rows: usize, layout: Layout) -> Weight {
        let (operands, sizes) = (operand..operand + 1, vec![rows]);
        Weight { operands, sizes, order: PartOrder::Stacked, layout, transform: Transform::None }
    }
}

/// What fills a slot.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Operand `n` of the node: a value that an earlier step computes.
    Operand(usize),
    /// Result `n` of the node.
    Result(usize),
    /// A buffer between the launches of a node, or for one launch, identified by its name.
    Scratch(&'static str),
    /// Packed parameters.
    Weight(Weight),
    /// The scales of the integer weight in slot `weight`.
    Scales,
    /// A table that the runtime fills before each step.
    Table(Table),
    /// Operand `n` of the node, which must be the graph input with the table's name.
    Input(usize, Table),
    /// The slots by which the rows of operand `n` are sorted, where an earlier grouped product sorted them.
    SlotsOf(usize),
    /// The size of a dimension, times a factor.
    Count(Per, u32),
    /// The node's state, in the slot of sequence 0.
    State,
    /// Elements from one sequence's slot to the next.
    SlotStride,
    /// The pages of the KV cache that is operand `n` of the node.
    Pages(usize),
    /// Elements from one page to the next of the KV cache that is operand `n`.
    PageStride(usize),
    /// Entries of a sequence in the page table.
    PagesPerSequence,
    /// Filled by whoever launches the kernel; no step does.
    Caller,
}

/// One argument of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    /// The slot as the code sees it.
    pub param: Param,
    /// What fills it.
    pub source: Source,
    /// Rows of [`Param::row_elements`] elements. Zero for integers.
    pub extent: Extent,
}

impl Operand {
    /// Any operand.
    pub fn new(param: Param, source: Source, extent: Extent) -> Operand {
        Operand { param, source, extent }
    }

    /// An operand of the node with one row for each row of the step.
    pub fn input(param: Param, operand: usize) -> Operand {
        Operand::new(param, Source::Operand(operand), Extent::per(Per::Row, 1))
    }

    /// A result of the node with one row for each row of the step.
    pub fn output(param: Param, result: usize) -> Operand {
        Operand::new(param, Source::Result(result), Extent::per(Per::Row, 1))
    }

    /// The same, with `factor` rows for each one of `per`.
    pub fn with_rows(self, per: Per, factor: usize) -> Operand {
        Operand { extent: Extent::per(per, factor), ..self }
    }

    /// The same, with a fixed number of rows.
    pub fn with_fixed_rows(self, rows: usize) -> Operand {
        Operand { extent: Extent::fixed(rows), ..self }
    }

    /// Packed parameters in an element type; the extent is the layout's.
    pub fn weight(name: &'static str, elem: Elem, weight: Weight) -> Operand {
        Operand::new(Param::read(name, elem, &[]), Source::Weight(weight), Extent::fixed(0))
    }

    /// A step table, i32.
    pub fn table(table: Table) -> Operand {
        let extent = match table {
            Table::Ids | Table::SequenceOf => Extent::per(Per::Token, 1),
            Table::Rows | Table::Settings => Extent::per(Per::Output, 1),
            Table::Starts => Extent { fixed: 1, factor: 1, per: Per::Sequence },
            Table::Past | Table::Slots | Table::Pages => Extent::per(Per::Sequence, 1),
        };
        Operand::new(Param::read(table.name(), Elem::I32, &[]), Source::Table(table), extent)
    }

    /// Token ids: the graph input `ids`, which is operand `operand` of the node.
    pub fn ids(operand: usize) -> Operand {
        Operand { source: Source::Input(operand, Table::Ids), ..Operand::table(Table::Ids) }
    }

    /// The size of a dimension, passed by value.
    pub fn scalar(name: &'static str, per: Per) -> Operand {
        Operand::new(Param::scalar(name), Source::Count(per, 1), Extent::fixed(0))
    }

    /// The size of a dimension, passed by address.
    pub fn count(name: &'static str, per: Per) -> Operand {
        Operand::new(Param::count(name), Source::Count(per, 1), Extent::fixed(0))
    }

    /// The node's state: `elements` of `elem` in each slot, and the tables and strides that find it.
    pub fn state(elem: Elem, elements: usize) -> Operand {
        Operand::new(Param::read_write("state", elem, &[]), Source::State, Extent::fixed(elements))
    }

    /// Elements from one sequence's slot to the next.
    pub fn slot_stride() -> Operand {
        Operand::new(Param::scalar("slot_stride"), Source::SlotStride, Extent::fixed(0))
    }

    /// The KV cache that is operand `cache` of the node, with `elements` of `elem` in each page.
    pub fn pages(access: Access, elem: Elem, cache: usize, elements: usize) -> Operand {
        let param = Param::Buffer { name: "cache", access, elem, inner: Vec::new() };
        Operand::new(param, Source::Pages(cache), Extent::fixed(elements))
    }

    /// The strides that find a page of the KV cache that is operand `cache`.
    pub fn page_strides(cache: usize) -> [Operand; 2] {
        [("page_stride", Source::PageStride(cache)), ("pages_per_sequence", Source::PagesPerSequence)]
            .map(|(name, source)| Operand::new(Param::scalar(name), source, Extent::fixed(0)))
    }

    /// The slot's name.
    pub fn name(&self) -> &'static str {
        self.param.name()
    }

    /// The operand as a plan states it. `state` is the element type of the launch's state or keys and values. `None` if the
    /// caller fills the slot, or if the parameter cannot hold what the source gives.
    pub(crate) fn record(&self, state: Option<Elem>) -> Option<format::Operand> {
        use format::Operand as Record;
        let elements = self.extent.fixed as u64;
        match &self.source {
            Source::Operand(_) | Source::Result(_) | Source::Scratch(_) | Source::SlotsOf(_) => {
                let shape = format::Shape {
                    elem: self.param.elem()?,
                    row: self.param.row_elements() as u64,
                    fixed: elements,
                    factor: self.extent.factor as u64,
                    per: self.extent.per,
                };
                Some(match &self.param {
                    Param::TensorMap { map, .. } => Record::Matrix(map.boxes(), format::Matrix::Value(shape)),
                    _ => Record::Value(self.param.access()?, shape),
                })
            }
            Source::Weight(weight) => {
                let shape = format::WeightShape {
                    format: self.param.elem()?.weight_format()?,
                    layout: weight.layout,
                    parts: weight.sizes.iter().map(|&rows| rows as u64).collect(),
                    order: weight.order,
                    transform: weight.transform,
                };
                Some(match &self.param {
                    Param::TensorMap { map, .. } => Record::Matrix(map.boxes(), format::Matrix::Weight(shape)),
                    _ => Record::Weight(shape),
                })
            }
            Source::Scales => Some(Record::Scales),
            Source::Table(table) | Source::Input(_, table) => Some(Record::Table(*table)),
            Source::Count(per, factor) => Some(Record::Count(*per, *factor)),
            Source::State => Some(Record::State(self.param.elem()?, elements)),
            Source::Pages(_) => Some(Record::Kv(self.param.access()?, self.param.elem()?, elements)),
            Source::SlotStride => Some(Record::SlotStride(state?)),
            Source::PageStride(_) => Some(Record::PageStride(state?)),
            Source::PagesPerSequence => Some(Record::PagesPerSequence),
            Source::Caller => None,
        }
    }

    /// Bytes where `size` gives the sizes of the dimensions; `None` where they overflow.
    pub fn bytes(&self, size: impl FnOnce(Per) -> u64) -> Option<u64> {
        let bits = self.param.elem().map_or(0, Elem::bits) as u64;
        let elements = self.extent.rows(size)?.checked_mul(self.param.row_elements() as u64)?;
        Some(elements.checked_mul(bits)? / 8)
    }
}
