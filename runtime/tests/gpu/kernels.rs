//! Kernels of the toy model. All arithmetic is of integers below 1009, so that results are exact and a test can compute them.

use crate::fake::Memory;
use crate::plan::{VOCAB, WEIGHT};

const P: i32 = 1009;
const PAGE: i32 = 16;

/// Runs a kernel over the device's memory.
pub(crate) fn run(memory: &mut Memory, symbol: &str, args: &[u64]) -> Result<(), String> {
    match symbol {
        "embed" => embed(memory, args),
        "recur" => recur(memory, args),
        "append" => append(memory, args),
        "attend" => attend(memory, args),
        "head" => head(memory, args),
        "overrun" => memory.set_f32(args[0] + 4 * args[1], 1.0),
        // What they draw is for tests on a simulator: here it is seen that they ran.
        "draw_bf16" | "draw_f32" => memory.set_f32(args[0], WEIGHT),
        other => Err(format!("no kernel {other}")),
    }
}

/// `x[t] = ids[t] + weight[0]`
fn embed(memory: &mut Memory, args: &[u64]) -> Result<(), String> {
    let weight = memory.f32(args[1])?;
    for t in 0..memory.count(args[3])? {
        let id = memory.i32(args[0], t)?;
        memory.set_f32(args[2] + 4 * t, id as f32 + weight)?;
    }
    Ok(())
}

/// `s = 3 s + x[t] (mod P); x[t] = s`: a recurrence over each sequence, its state in the sequence's slot.
fn recur(memory: &mut Memory, args: &[u64]) -> Result<(), String> {
    for s in 0..memory.count(args[4])? {
        let at = args[2] + memory.i32(args[1], s)? as u64 * args[5];
        for t in memory.i32(args[0], s)?..memory.i32(args[0], s + 1)? {
            let x = args[3] + 4 * t as u64;
            let state = (memory.f32(at)? as i32 * 3 + memory.f32(x)? as i32) % P;
            memory.set_f32(at, state as f32)?;
            memory.set_f32(x, state as f32)?;
        }
    }
    Ok(())
}

/// A token of a step: its sequence, and its place there.
fn place(memory: &Memory, args: &[u64], t: u64) -> Result<(u64, i32), String> {
    let s = memory.i32(args[3], t)? as u64;
    Ok((s, memory.i32(args[1], s)? + t as i32 - memory.i32(args[0], s)?))
}

/// Where the key of a position lies, through the page table.
fn key(memory: &Memory, args: &[u64], s: u64, position: i32) -> Result<u64, String> {
    let page = memory.i32(args[2], s * args[8] + (position / PAGE) as u64)? as u64;
    Ok(args[4] + page * args[7] + 4 * (position % PAGE) as u64)
}

/// `keys[position] = x[t]`
fn append(memory: &mut Memory, args: &[u64]) -> Result<(), String> {
    for t in 0..memory.count(args[6])? {
        let (s, position) = place(memory, args, t)?;
        let x = memory.f32(args[5] + 4 * t)?;
        memory.set_f32(key(memory, args, s, position)?, x)?;
    }
    Ok(())
}

/// `y[t]`: the sum of the keys up to t's position (mod P).
fn attend(memory: &mut Memory, args: &[u64]) -> Result<(), String> {
    for t in 0..memory.count(args[6])? {
        let (s, position) = place(memory, args, t)?;
        let mut sum = 0;
        for p in 0..=position {
            sum = (sum + memory.f32(key(memory, args, s, p)?)? as i32) % P;
        }
        memory.set_f32(args[5] + 4 * t, sum as f32)?;
    }
    Ok(())
}

/// `logits[r] = { y[rows[r]], number of the entry, 2 · outputs, 0 … }`
fn head(memory: &mut Memory, args: &[u64]) -> Result<(), String> {
    for r in 0..memory.count(args[3])? {
        let y = memory.f32(args[1] + 4 * memory.i32(args[0], r)? as u64)?;
        let mut row = vec![0.0; VOCAB as usize];
        row[..3].copy_from_slice(&[y, args[5] as f32, memory.count(args[6])? as f32]);
        for (token, logit) in (0..).zip(row) {
            memory.set_f32(args[2] + r * args[4] + 4 * token, logit)?;
        }
    }
    Ok(())
}
