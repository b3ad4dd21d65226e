//! Kernels of the toy model. All arithmetic uses integers below 1009, so results are exact and tests can compute them.

use jamba_runtime::sample::greedy;

use crate::fake::Memory;
use crate::plan::{ROW_STRIDE, VOCAB, WEIGHT};

const P: i32 = 1009;
const PAGE: i32 = 16;

/// Runs a kernel on device memory.
pub(crate) fn run(memory: &mut Memory, symbol: &str, args: &[u64]) -> Result<(), String> {
    match symbol {
        "embed" => embed(memory, args),
        "recur" => recur(memory, args),
        "append" => append(memory, args),
        "attend" => attend(memory, args),
        "head" | "head2" | "head3" => head(memory, args),
        "nan_head" | "nan_head2" | "nan_head3" => nan_head(memory, args),
        "argmax" => argmax(memory, args),
        "draw" => draw(memory, args),
        "overrun" => memory.set_f32(args[0] + 4 * args[1], 1.0),
        // Tests on the simulator check their values; here it only matters that they ran.
        "draw_bf16" => memory.set_f32(args[0], WEIGHT),
        "draw_f32" => (0..VOCAB).try_for_each(|row| memory.set_f32(args[0] + 4 * row, WEIGHT)),
        other => Err(format!("no kernel {other}")),
    }
}

/// `x[t] = ids[t] + weight[ids[t]]`
fn embed(memory: &mut Memory, args: &[u64]) -> Result<(), String> {
    for t in 0..memory.count(args[3])? {
        let id = memory.i32(args[0], t)?;
        let weight = memory.f32(args[1] + 4 * id as u64)?;
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

/// The sequence of a token and its position there.
fn place(memory: &Memory, args: &[u64], t: u64) -> Result<(u64, i32), String> {
    let s = memory.i32(args[3], t)? as u64;
    Ok((s, memory.i32(args[1], s)? + t as i32 - memory.i32(args[0], s)?))
}

/// Address of the key of a position, through the page table.
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

/// Rows of NaN.
fn nan_head(memory: &mut Memory, args: &[u64]) -> Result<(), String> {
    for r in 0..memory.count(args[3])? {
        (0..VOCAB).try_for_each(|token| memory.set_f32(args[2] + r * args[4] + 4 * token, f32::NAN))?;
    }
    Ok(())
}

fn row(memory: &Memory, logits: u64, r: u64) -> Result<Vec<f32>, String> {
    (0..VOCAB).map(|token| memory.f32(logits + r * ROW_STRIDE + 4 * token)).collect()
}

/// `tokens[r]`: the most likely token of `logits[r]`, or −1.
fn argmax(memory: &mut Memory, args: &[u64]) -> Result<(), String> {
    for r in 0..memory.count(args[2])? {
        let token = greedy(&row(memory, args[0], r)?).map_or(-1, |token| token as i32);
        memory.set_i32(args[1], r, token)?;
    }
    Ok(())
}

/// `tokens[r]`: drawn from all tokens with the temperature and draw of `settings[r]`; the most likely at temperature 0; or −1.
fn draw(memory: &mut Memory, args: &[u64]) -> Result<(), String> {
    for r in 0..memory.count(args[3])? {
        let (row, word) = (row(memory, args[0], r)?, |at: u64| memory.i32(args[1], 8 * r + at));
        let temperature = f64::from(f32::from_bits(word(0)? as u32));
        let draw = u64::from(word(4)? as u32) | u64::from(word(5)? as u32) << 32;
        let mut token = greedy(&row).map_or(-1, |token| token as i32);
        if temperature > 0.0 && token >= 0 {
            let largest = f64::from(row[token as usize]);
            let weights: Vec<f64> = row.iter().map(|&x| ((f64::from(x) - largest) / temperature).exp()).collect();
            let mut left = (draw >> 11) as f64 / (1u64 << 53) as f64 * weights.iter().sum::<f64>();
            let reaches = |weight: &f64| {
                left -= weight;
                left < 0.0
            };
            token = weights.iter().position(reaches).ok_or("no token reaches the draw")? as i32;
        }
        memory.set_i32(args[2], r, token)?;
    }
    Ok(())
}
