//! Tensor maps: the shape of a tensor in global memory, and of its boxes in shared memory.
//!
//! `CUtensorMap` is opaque. The simulator uses its own layout in the same 128 bytes.

/// First eight bytes of an encoded map.
const MAGIC: u64 = 0x7061_4d72_6f73_6e54;

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// 8 bits.
    U8,
    /// 16 bits, f16.
    F16,
    /// 16 bits, bf16.
    Bf16,
    /// 32 bits, f32.
    F32,
    /// 32 bits, i32.
    I32,
}

impl Element {
    pub fn bytes(self) -> usize {
        match self {
            Element::U8 => 1,
            Element::F16 | Element::Bf16 => 2,
            Element::F32 | Element::I32 => 4,
        }
    }

    const ALL: [Element; 5] = [Element::U8, Element::F16, Element::Bf16, Element::F32, Element::I32];
}

/// Permutation of the 16-byte chunks of a box in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swizzle {
    /// No permutation.
    None,
    /// Within 32 bytes of every 256.
    Bytes32,
    /// Within 64 bytes of every 512.
    Bytes64,
    /// Within 128 bytes of every 1024.
    Bytes128,
}

impl Swizzle {
    const ALL: [Swizzle; 4] = [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128];

    /// Most bytes per row of the box, if limited.
    pub fn span(self) -> Option<usize> {
        match self {
            Swizzle::None => None,
            Swizzle::Bytes32 => Some(32),
            Swizzle::Bytes64 => Some(64),
            Swizzle::Bytes128 => Some(128),
        }
    }

    /// Swizzled address in shared memory of the byte with the linear address `address`.
    #[inline]
    pub fn apply(self, address: usize) -> usize {
        match self {
            Swizzle::None => address,
            Swizzle::Bytes32 => address ^ (address >> 3 & 0x10),
            Swizzle::Bytes64 => address ^ (address >> 3 & 0x30),
            Swizzle::Bytes128 => address ^ (address >> 3 & 0x70),
        }
    }
}

/// A tensor of one to five dimensions, innermost first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMap {
    /// Address of the first element; a multiple of 16.
    pub address: u64,
    pub elem: Element,
    /// Number of elements in each dimension.
    pub dims: Vec<u64>,
    /// Stride in bytes of each dimension except the innermost; multiples of 16.
    pub strides: Vec<u64>,
    /// Number of elements of the box in each dimension, at most 256.
    pub box_dims: Vec<u32>,
    pub swizzle: Swizzle,
}

impl TensorMap {
    /// The 128 bytes for a kernel. [`TensorMap::decode`] checks the rules.
    pub fn encode(&self) -> [u8; 128] {
        let mut out = [0; 128];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&MAGIC.to_le_bytes());
        put(&self.address.to_le_bytes());
        let index = |found: Option<usize>| found.map_or(255, |i| i as u8);
        put(&[index(Element::ALL.iter().position(|e| *e == self.elem)), self.dims.len() as u8]);
        put(&[index(Swizzle::ALL.iter().position(|s| *s == self.swizzle)), 0]);
        for i in 0..5 {
            put(&(self.dims.get(i).copied().unwrap_or(1) as u32).to_le_bytes());
            put(&(self.box_dims.get(i).copied().unwrap_or(1) as u16).to_le_bytes());
        }
        for i in 0..4 {
            put(&self.strides.get(i).copied().unwrap_or(0).to_le_bytes());
        }
        out
    }

    /// Inverse of [`TensorMap::encode`]. Checks the rules of `cuTensorMapEncodeTiled`.
    pub fn decode(bytes: &[u8; 128]) -> Result<TensorMap, String> {
        let word = |at: usize, n: usize| (0..n).fold(0u64, |all, i| all | u64::from(bytes[at + i]) << (8 * i));
        if word(0, 8) != MAGIC {
            return Err("the address holds no tensor map".to_owned());
        }
        let rank = bytes[17] as usize;
        let (elem, swizzle) = (Element::ALL.get(bytes[16] as usize), Swizzle::ALL.get(bytes[18] as usize));
        let (Some(elem), Some(swizzle), 1..=5) = (elem, swizzle, rank) else {
            return Err("a tensor map with an unknown type, swizzle or rank".to_owned());
        };
        let map = TensorMap {
            address: word(8, 8),
            elem: *elem,
            dims: (0..rank).map(|i| word(20 + 6 * i, 4)).collect(),
            strides: (0..rank - 1).map(|i| word(50 + 8 * i, 8)).collect(),
            box_dims: (0..rank).map(|i| word(24 + 6 * i, 2) as u32).collect(),
            swizzle: *swizzle,
        };
        map.check()?;
        Ok(map)
    }

    fn check(&self) -> Result<(), String> {
        let row = self.box_dims[0] as usize * self.elem.bytes();
        if !self.address.is_multiple_of(16) {
            return Err(format!("a tensor map on address {:#x}, which is no multiple of 16", self.address));
        }
        if let Some(stride) = self.strides.iter().find(|stride| !stride.is_multiple_of(16) || **stride == 0) {
            return Err(format!("a tensor map with a stride of {stride} bytes; a multiple of 16 is expected"));
        }
        if self.box_dims.iter().any(|n| !(1..=256).contains(n)) || self.dims.contains(&0) {
            return Err(format!("a tensor map of {:?} with boxes of {:?}", self.dims, self.box_dims));
        }
        if !row.is_multiple_of(16) || self.swizzle.span().is_some_and(|span| row > span) {
            return Err(format!("a tensor map with rows of {row} bytes in its box under {:?}", self.swizzle));
        }
        Ok(())
    }

    pub fn box_bytes(&self) -> usize {
        self.box_dims.iter().map(|n| *n as usize).product::<usize>() * self.elem.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_its_encoding() {
        let map = TensorMap {
            address: 0x10_0000_0400,
            elem: Element::Bf16,
            dims: vec![320, 77],
            strides: vec![640],
            box_dims: vec![64, 256],
            swizzle: Swizzle::Bytes128,
        };
        assert_eq!(TensorMap::decode(&map.encode()), Ok(map.clone()));
        assert_eq!(map.box_bytes(), 32768);
        let bad = TensorMap { box_dims: vec![128, 8], ..map };
        assert!(TensorMap::decode(&bad.encode()).expect_err("too wide").contains("256 bytes"));
    }
}
