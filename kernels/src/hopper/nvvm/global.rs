//! Predicated loads from global memory: zeros if the condition is false. The memory must not change while the kernel runs
//! (`ld.global.nc`).

use crate::cpu::builder::{Num, Type, Value};
use crate::hopper::Builder;
use crate::hopper::asm::Effect;

impl Builder<'_> {
    /// Streaming load of 16 aligned bytes: no allocation in L1, prefetch of 256 bytes to L2.
    #[track_caller]
    pub fn load_streamed_or_zero(&self, pointer: Value, condition: Value) -> [Value; 4] {
        self.load_16_or_zero(".L1::no_allocate.L2::256B", pointer, condition)
    }

    /// Loads 16 aligned bytes.
    #[track_caller]
    pub fn load_or_zero(&self, pointer: Value, condition: Value) -> [Value; 4] {
        self.load_16_or_zero("", pointer, condition)
    }

    /// Loads 4 aligned bytes.
    #[track_caller]
    pub fn load_word_or_zero(&self, pointer: Value, condition: Value) -> Value {
        let text = "{ .reg .pred p; setp.ne.b32 p, $2, 0; mov.b32 $0, 0; @p ld.global.nc.b32 $0, [$1]; }";
        self.asm1(Effect::Memory, text, &[pointer, condition], Num::I32)
    }

    /// Loads two adjacent 2-byte elements, 2-byte aligned, each under its own condition.
    #[track_caller]
    pub fn load_halves_or_zero(&self, pointer: Value, [low, high]: [Value; 2]) -> Value {
        let text = "{ .reg .pred p, q; .reg .b16 l, h; setp.ne.b32 p, $2, 0; setp.ne.b32 q, $3, 0; \
                    mov.b16 l, 0; mov.b16 h, 0; @p ld.global.nc.b16 l, [$1]; @q ld.global.nc.b16 h, [$1+2]; \
                    mov.b32 $0, {l, h}; }";
        self.asm1(Effect::Memory, text, &[pointer, low, high], Num::I32)
    }

    #[track_caller]
    fn load_16_or_zero(&self, how: &str, pointer: Value, condition: Value) -> [Value; 4] {
        let text = format!(
            "{{ .reg .pred p; setp.ne.b32 p, $5, 0; mov.b32 $0, 0; mov.b32 $1, 0; mov.b32 $2, 0; mov.b32 $3, 0; \
             @p ld.global.nc{how}.v4.b32 {{$0, $1, $2, $3}}, [$4]; }}"
        );
        let loaded = self.asm(Effect::Memory, &text, &[pointer, condition], &[Type::scalar(Num::I32); 4]);
        loaded.try_into().expect("four results")
    }
}
