//! Products of matrices in tiles, on x86-64 with AMX (Intel's Software Developer's Manual, volume 1, chapter 18).
//!
//! A tile is a register of up to 16 rows of up to 64 bytes. Tiles are named by their number, 0 to 7, and have no values.

use std::panic::Location;

use super::{Buffer, Builder, Num, Type, Value};
use melior::ir::attribute::StringAttribute;

/// The most rows that a tile has.
pub const TILE_ROWS: usize = 16;

/// The most bytes that a row of a tile has.
pub const TILE_BYTES: usize = 64;

/// The numbers that a tile product multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TileDot {
    /// Signed bytes of the left operand, signed ones of the right; i32 sums.
    Signed,
    /// Unsigned bytes of the left operand, signed ones of the right; i32 sums.
    Unsigned,
    /// bf16; f32 sums. Subnormal numbers count as zero.
    Bf16,
}

/// A place in an array on the stack: an array and a byte of it.
pub type TilePlace = (Buffer, Value);

impl Builder<'_> {
    /// Runs `body` with tiles: `rows(tile)` rows of `bytes(tile)` bytes.
    #[track_caller]
    pub fn with_tiles(&self, rows: impl Fn(usize) -> usize, bytes: impl Fn(usize) -> usize, body: impl FnOnce()) {
        assert!(self.target().has_tiles(), "tiles on {}", self.target());
        // Palette 1; bytes of a row from byte 16 on, two bytes each; rows from byte 48 on.
        let mut config = [0u8; 64];
        config[0] = 1;
        for tile in 0..8 {
            config[16 + 2 * tile] = u8::try_from(bytes(tile)).expect("at most 64 bytes");
            config[48 + tile] = u8::try_from(rows(tile)).expect("at most 16 rows");
        }
        let memory = self.stack(Num::I32, &[config.len() / 4]);
        for (at, word) in config.chunks_exact(4).enumerate() {
            let word = i32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            self.store(self.i32(word), memory, at);
        }
        self.intrinsic("ldtilecfg", &[self.address((memory, self.index(0)))]);
        body();
        self.intrinsic("tilerelease", &[]);
    }

    #[track_caller]
    pub fn tile_zero(&self, tile: usize) {
        self.intrinsic("tilezero", &[self.tile(tile)]);
    }

    /// Loads a tile; its rows are `stride` bytes apart.
    #[track_caller]
    pub fn tile_load(&self, tile: usize, from: TilePlace, stride: usize) {
        self.intrinsic("tileloadd64", &[self.tile(tile), self.address(from), self.i64(stride as i64)]);
    }

    /// Stores a tile; its rows are `stride` bytes apart.
    #[track_caller]
    pub fn tile_store(&self, tile: usize, to: TilePlace, stride: usize) {
        self.intrinsic("tilestored64", &[self.tile(tile), self.address(to), self.i64(stride as i64)]);
    }

    /// `sums[r, c] += Σₖ x[r, k] · y[k, c]`: y has the numbers that a lane of 4 bytes of x is multiplied with in a lane.
    #[track_caller]
    pub fn tile_dot(&self, dot: TileDot, sums: usize, x: usize, y: usize) {
        let name = match dot {
            TileDot::Signed => "tdpbssd",
            TileDot::Unsigned => "tdpbusd",
            TileDot::Bf16 => "tdpbf16ps",
        };
        self.intrinsic(name, &[sums, x, y].map(|tile| self.tile(tile)));
    }

    #[track_caller]
    fn tile(&self, tile: usize) -> Value {
        assert!(tile < 8, "tile {tile}");
        self.integer(Location::caller(), tile as i64, Type::scalar(Num::I8))
    }

    #[track_caller]
    fn address(&self, (buffer, byte): TilePlace) -> Value {
        let array = Value { id: buffer.id, ty: Type::scalar(buffer.num) };
        let start = self.op1("memref.extract_aligned_pointer_as_index", &[array], Type::scalar(Num::Index), &[]);
        self.op1("llvm.inttoptr", &[(start + byte).to_i64()], Type::scalar(Num::Address), &[])
    }

    #[track_caller]
    fn intrinsic(&self, name: &str, operands: &[Value]) {
        let name = StringAttribute::new(self.context, &format!("llvm.x86.{name}")).into();
        self.op("llvm.call_intrinsic", operands, &[("intrin", name)]);
    }
}
