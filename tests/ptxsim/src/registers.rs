//! The registers of a warp: 32 lanes each, with one poison bit per half of a lane, since one value of a 16-bit pair may be
//! unwritten.
//!
//! There are three register files: 32 bits (also 16 bits, zero-extended), 64 bits, and predicates with one bit per lane.
//! Immediates and special registers occupy slots, so that every operand is a slot.

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;
pub(crate) type Lanes<T> = [T; LANES];
/// Index into a register file.
pub(crate) type Slot = u32;

/// Poisoned lanes, for each half of the register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Halves {
    pub low: u32,
    pub high: u32,
}

impl Halves {
    pub const fn both(lanes: u32) -> Halves {
        Halves { low: lanes, high: lanes }
    }

    /// Lanes with a poisoned half.
    #[inline]
    pub fn any(self) -> u32 {
        self.low | self.high
    }
}

impl std::ops::BitOr for Halves {
    type Output = Halves;

    #[inline]
    fn bitor(self, other: Halves) -> Halves {
        Halves { low: self.low | other.low, high: self.high | other.high }
    }
}

impl std::ops::BitAnd<u32> for Halves {
    type Output = Halves;

    #[inline]
    fn bitand(self, lanes: u32) -> Halves {
        Halves { low: self.low & lanes, high: self.high & lanes }
    }
}

/// Registers of one width.
#[derive(Debug, Default, Clone)]
pub(crate) struct File<T> {
    values: Vec<Lanes<T>>,
    poison: Vec<Halves>,
}

impl<T: Copy + Default> File<T> {
    /// `n` registers, all poisoned.
    pub fn reset(&mut self, n: usize) {
        self.values.resize(n, [T::default(); LANES]);
        self.poison.clear();
        self.poison.resize(n, Halves::both(u32::MAX));
    }

    #[inline]
    pub fn get(&self, slot: Slot) -> &Lanes<T> {
        &self.values[slot as usize]
    }

    #[inline]
    pub fn poison(&self, slot: Slot) -> u32 {
        self.poison[slot as usize].any()
    }

    #[inline]
    pub fn halves(&self, slot: Slot) -> Halves {
        self.poison[slot as usize]
    }

    /// Writes the lanes in `mask`. `poison` has a bit for each poisoned lane.
    #[inline]
    pub fn put(&mut self, slot: Slot, values: &Lanes<T>, poison: u32, mask: u32) {
        self.put_halves(slot, values, Halves::both(poison), mask);
    }

    /// As [`File::put`], with poison by halves.
    #[inline]
    pub fn put_halves(&mut self, slot: Slot, values: &Lanes<T>, poison: Halves, mask: u32) {
        let held = &mut self.values[slot as usize];
        if mask == u32::MAX {
            *held = *values;
        } else {
            for lane in 0..LANES {
                if mask >> lane & 1 == 1 {
                    held[lane] = values[lane];
                }
            }
        }
        let bits = &mut self.poison[slot as usize];
        *bits = *bits & !mask | poison & mask;
    }

    /// Clears the poison of all lanes.
    pub fn cure(&mut self, slot: Slot) {
        self.poison[slot as usize] = Halves::default();
    }

    pub fn fill(&mut self, slot: Slot, value: T) {
        self.put(slot, &[value; LANES], 0, u32::MAX);
    }
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Registers {
    /// 32 bits or less.
    pub r: File<u32>,
    /// 64 bits.
    pub d: File<u64>,
    p: Vec<(u32, u32)>,
}

impl Registers {
    pub fn reset(&mut self, n_r: usize, n_d: usize, n_p: usize) {
        self.r.reset(n_r);
        self.d.reset(n_d);
        self.p.clear();
        self.p.resize(n_p, (0, u32::MAX));
    }

    /// The lanes of a predicate, and its poisoned lanes.
    #[inline]
    pub fn predicate(&self, slot: Slot) -> (u32, u32) {
        self.p[slot as usize]
    }

    #[inline]
    pub fn set_predicate(&mut self, slot: Slot, bits: u32, poison: u32, mask: u32) {
        let (held, held_poison) = &mut self.p[slot as usize];
        *held = *held & !mask | bits & mask;
        *held_poison = *held_poison & !mask | poison & mask;
    }
}

#[inline]
pub(crate) fn map1<A: Copy, T: Copy + Default>(a: &Lanes<A>, f: impl Fn(A) -> T) -> Lanes<T> {
    let mut out = [T::default(); LANES];
    for lane in 0..LANES {
        out[lane] = f(a[lane]);
    }
    out
}

#[inline]
pub(crate) fn map2<A: Copy, B: Copy, T: Copy + Default>(a: &Lanes<A>, b: &Lanes<B>, f: impl Fn(A, B) -> T) -> Lanes<T> {
    let mut out = [T::default(); LANES];
    for lane in 0..LANES {
        out[lane] = f(a[lane], b[lane]);
    }
    out
}

#[inline]
pub(crate) fn map3<A: Copy, B: Copy, C: Copy, T: Copy + Default>(
    a: &Lanes<A>,
    b: &Lanes<B>,
    c: &Lanes<C>,
    f: impl Fn(A, B, C) -> T,
) -> Lanes<T> {
    let mut out = [T::default(); LANES];
    for lane in 0..LANES {
        out[lane] = f(a[lane], b[lane], c[lane]);
    }
    out
}

/// The lanes of a mask, lowest first.
pub(crate) fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let lane = left.trailing_zeros() as usize;
        left &= left - 1;
        Some(lane)
    })
}

/// The mask of lanes for which `f` holds.
#[inline]
pub(crate) fn mask_of(f: impl Fn(usize) -> bool) -> u32 {
    let mut mask = 0;
    for lane in 0..LANES {
        mask |= u32::from(f(lane)) << lane;
    }
    mask
}
