//! Kernels through the whole toolchain (MLIR, LLVM, lld), executed on the host.

use half::bf16;
use jambac_codegen::compile;
use jambac_codegen::compile::Phase;
use jambac_harness::{LoadedKernels, Slot};
use jambac_kernels::cpu::builder::{Builder, ModuleBuilder, Num, UNBOUNDED};
use jambac_kernels::kernel::{Elem, Param};
use jambac_kernels::target::{CpuTarget, X86Level};

/// Targets that the host can run.
fn targets() -> Vec<CpuTarget> {
    [X86Level::V2, X86Level::V3, X86Level::V4].map(CpuTarget::new).into_iter().filter(CpuTarget::runs_here).collect()
}

fn load(target: CpuTarget, name: &str, params: &[Param], emit: impl FnOnce(&Builder)) -> LoadedKernels {
    let object = compile(target, None, |module| module.kernel(name, params, emit)).unwrap();
    LoadedKernels::load(&object).unwrap()
}

/// The text of one phase.
fn text(target: CpuTarget, wanted: Phase, emit: impl FnOnce(&ModuleBuilder)) -> String {
    let mut found = String::new();
    let mut dump = |phase: Phase, text: &str| {
        if phase == wanted {
            found = text.to_owned();
        }
    };
    compile(target, Some(&mut dump), emit).unwrap();
    found
}

#[test]
fn adds_vectors_with_a_tail() {
    let params = [
        Param::read("x", Elem::F32, &[]),
        Param::read("y", Elem::F32, &[]),
        Param::write("out", Elem::F32, &[]),
        Param::scalar("n"),
    ];
    for target in targets() {
        let kernels = load(target, "add", &params, |b| {
            let (x, y, out) = (b.buffer("x"), b.buffer("y"), b.buffer("out"));
            let (lanes, n) = (b.index(16), b.scalar("n"));
            b.parallel_for(n.div_ceil(lanes), |block| {
                let i = block * lanes;
                let rest = n - i;
                let sum = b.load_partial(x, i, 16, rest) + b.load_partial(y, i, 16, rest);
                b.store_partial(sum, out, i, rest);
            });
        });
        for n in [0, 1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..n).map(|i| i as f32 * 0.5).collect();
            let y: Vec<f32> = (0..n).map(|i| 100.0 - i as f32).collect();
            let mut out = vec![0.0f32; n];
            let slots = vec![Slot::read(&x), Slot::read(&y), Slot::write(&mut out), Slot::Scalar(n as u64)];
            kernels.call("add", 3, slots).unwrap();
            let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
            assert_eq!(out, expected, "{target}, n = {n}");
        }
    }
}

#[test]
fn sums_rows_in_a_fixed_order() {
    let params = [Param::read("x", Elem::F32, &[48]), Param::write("sums", Elem::F32, &[]), Param::scalar("cols")];
    let x: Vec<f32> = (0..48).map(|i| 1.0 / (i as f32 + 1.0)).collect();
    let cols = 41;
    // Lane j sums the columns j, j + 16, …; then the lanes are reduced pairwise.
    let mut lanes = [0.0f32; 16];
    for (i, x) in x[..cols].iter().enumerate() {
        lanes[i % 16] += x;
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    for target in targets() {
        let kernels = load(target, "row_sum", &params, |b| {
            let (zero, cols) = (b.index(0), b.scalar("cols"));
            let [sums] = b.for_range(zero, cols, 16, [b.splat(0.0, 16)], |i, [sums]| {
                [sums + b.load_partial(b.buffer("x"), (zero, i), 16, cols - i)]
            });
            b.store(sums.reduce_add(), b.buffer("sums"), zero);
        });
        let mut sums = [0.0f32];
        let slots = vec![Slot::read(&x), Slot::write(&mut sums), Slot::Scalar(cols as u64)];
        kernels.call("row_sum", 1, slots).unwrap();
        assert_eq!(sums[0].to_bits(), lanes[0].to_bits(), "{target}");
    }
}

/// out[6][16] = a[6][k] · b[k][16], with the weights packed in panels of 16 outputs.
fn matmul(module: &ModuleBuilder, k: usize, elem: Elem) {
    let params =
        [Param::read("a", Elem::F32, &[k]), Param::read("b", elem, &[16]), Param::write("out", Elem::F32, &[16])];
    module.kernel("matmul", &params, |b| {
        let zero = b.index(0);
        let (a, weights) = (b.buffer("a"), b.buffer("b"));
        let rows = [0, 1, 2, 3, 4, 5].map(|row| b.index(row));
        let sums = b.for_range(zero, k, 1, [b.splat(0.0, 16); 6], |j, sums| {
            let w = b.load_vector(weights, (j, zero), 16).to_f32();
            std::array::from_fn(|row| b.load(a, (rows[row], j)).broadcast(16).mul_add(w, sums[row]))
        });
        for (row, sum) in rows.iter().zip(sums) {
            b.store(sum, b.buffer("out"), (*row, zero));
        }
    });
}

#[test]
fn multiplies_matrices_of_f32_and_bf16() {
    let k = 64;
    let a: Vec<f32> = (0..6 * k).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
    let b: Vec<f32> = (0..k * 16).map(|i| bf16::from_f32(((i * 53) % 97) as f32 / 48.0 - 1.0).to_f32()).collect();
    let narrow: Vec<u16> = b.iter().map(|&b| bf16::from_f32(b).to_bits()).collect();
    for target in targets() {
        let mut expected = vec![0.0f32; 6 * 16];
        for (i, sum) in expected.iter_mut().enumerate() {
            for j in 0..k {
                let (a, b) = (a[i / 16 * k + j], b[j * 16 + i % 16]);
                *sum = if target.has_fma() { a.mul_add(b, *sum) } else { a * b + *sum };
            }
        }
        for elem in [Elem::F32, Elem::Bf16] {
            let object = compile(target, None, |module| matmul(module, k, elem)).unwrap();
            let weights = if elem == Elem::F32 { Slot::read(&b) } else { Slot::read(&narrow) };
            let mut out = vec![0.0f32; 6 * 16];
            let slots = vec![Slot::read(&a), weights, Slot::write(&mut out)];
            LoadedKernels::load(&object).unwrap().call("matmul", 1, slots).unwrap();
            assert_eq!(out, expected, "{target}, {elem:?}");
        }
    }
}

#[test]
fn the_inner_loop_of_a_matmul_stays_in_registers() {
    for (level, multiply, register) in [(X86Level::V3, "vfmadd", "%ymm"), (X86Level::V4, "vfmadd", "%zmm")] {
        let assembly = text(CpuTarget::new(level), Phase::Assembly, |module| matmul(module, 256, Elem::Bf16));
        let body = innermost_loop(&assembly);
        assert!(body.contains(multiply) && body.contains(register), "{body}");
        assert!(!body.contains("(%rsp") && !body.contains("(%rbp"), "a spill in the loop:\n{body}");
    }
}

/// The lines from the last label before the only backward jump to the jump.
fn innermost_loop(assembly: &str) -> &str {
    let mut labels = std::collections::BTreeMap::new();
    let mut at = 0;
    for line in assembly.lines() {
        if let Some(label) = line.split(':').next().filter(|label| label.starts_with(".L")) {
            labels.insert(label, at);
        }
        let jump = line.trim_start().starts_with('j');
        if let Some(start) = line.split_whitespace().nth(1).filter(|_| jump).and_then(|label| labels.get(label)) {
            return &assembly[*start..at];
        }
        at += line.len() + 1;
    }
    panic!("no loop in\n{assembly}")
}

#[test]
fn v2_uses_neither_fma_nor_avx() {
    let target = CpuTarget::new(X86Level::V2);
    let assembly = text(target, Phase::Assembly, |module| matmul(module, 256, Elem::Bf16));
    let instructions: Vec<&str> = assembly.lines().filter(|line| line.starts_with('\t')).collect();
    assert!(instructions.iter().any(|line| line.contains("mulps")), "{assembly}");
    assert!(!assembly.contains("fmadd") && !assembly.contains("%ymm"), "{assembly}");
    assert!(!instructions.iter().any(|line| line.starts_with("\tv") || line.starts_with("\tcall")), "{assembly}");
}

#[test]
fn v4_compiles_where_it_cannot_run() {
    let target = CpuTarget::new(X86Level::V4);
    assert!(compile(target, None, |module| matmul(module, 256, Elem::F32)).unwrap().starts_with(b"\x7fELF"));
}

#[test]
fn same_kernels_same_bytes() {
    let target = CpuTarget::new(X86Level::V3);
    let first = compile(target, None, |module| matmul(module, 64, Elem::Bf16)).unwrap();
    assert_eq!(first, compile(target, None, |module| matmul(module, 64, Elem::Bf16)).unwrap());
}

#[test]
fn branches_and_loops_carry_values() {
    // Collatz: the number of steps from each start to 1.
    let params = [Param::read("start", Elem::I32, &[]), Param::write("steps", Elem::I32, &[]), Param::scalar("n")];
    let kernels = load(CpuTarget::new(X86Level::V2), "collatz", &params, |b| {
        b.parallel_for(b.scalar("n"), |i| {
            let [_, steps] = b.while_(
                [b.load(b.buffer("start"), i), b.i32(0)],
                |[x, _]| x.ne(1),
                |[x, steps]| {
                    let even = (x & 1).eq(0);
                    let [next] = b.if_else(even, || [x / 2], || [x * 3 + 1]);
                    [next, steps + 1]
                },
            );
            b.if_(steps.gt(0), || b.store(steps, b.buffer("steps"), i));
        });
    });
    let start = [1i32, 2, 3, 27, 97];
    let mut steps = [-1i32; 5];
    let slots = vec![Slot::read(&start), Slot::write(&mut steps), Slot::Scalar(5)];
    kernels.call("collatz", 2, slots).unwrap();
    assert_eq!(steps, [-1, 1, 7, 111, 118]);
}

#[test]
fn rounds_to_bf16_as_half_does() {
    let params = [Param::read("x", Elem::F32, &[]), Param::write("y", Elem::Bf16, &[]), Param::scalar("n")];
    let mut x: Vec<f32> = (0..1 << 16).map(|i| f32::from_bits(i * 65_521 + 7)).collect();
    x.extend([f32::from_bits(0x3f80_8000), f32::from_bits(0x3f81_8000), f32::from_bits(0x7f7f_ffff), f32::INFINITY]);
    x.resize(x.len().next_multiple_of(16), f32::from_bits(0x7f80_0001));
    for target in targets() {
        let kernels = load(target, "to_bf16", &params, |b| {
            b.for_each(0, b.scalar("n"), 16, |i| {
                b.store(b.load_vector(b.buffer("x"), i, 16).to_bf16(), b.buffer("y"), i);
            });
        });
        let mut y = vec![0u16; x.len()];
        let n = x.len() as u64;
        kernels.call("to_bf16", 1, vec![Slot::read(&x), Slot::write(&mut y), Slot::Scalar(n)]).unwrap();
        for (&x, &y) in x.iter().zip(&y) {
            assert_eq!(y, bf16::from_f32(x).to_bits(), "{target}: {x:e}");
        }
    }
}

#[test]
fn integers_convert_shift_and_compare() {
    let params = [Param::read("x", Elem::I32, &[]), Param::write("y", Elem::I32, &[])];
    let x: Vec<i32> = (0..16).map(|i| i * 0x0123_4567 - 0x0765_4321).collect();
    let expected: Vec<i32> = x
        .iter()
        .map(|&x| {
            let low = i32::from(x as i8);
            let mixed = (x << 3) ^ ((x as u32 >> 5) as i32) ^ (x >> 7);
            mixed.wrapping_sub(low as f32 as i32).max(-x).min(i32::MAX / 2)
        })
        .collect();
    for target in targets() {
        let kernels = load(target, "mix", &params, |b| {
            let zero = b.index(0);
            let x = b.load_vector(b.buffer("x"), zero, 16);
            let low = x.to_i8().to_i32();
            let mixed = ((x << 3) ^ (x >> 5)) ^ x.shr_signed(7);
            let mixed = mixed - low.to_f32().to_i32();
            let mixed = mixed.max(-x).min(i32::MAX / 2);
            b.store(mixed, b.buffer("y"), zero);
        });
        let mut y = vec![0i32; 16];
        kernels.call("mix", 1, vec![Slot::read(&x), Slot::write(&mut y)]).unwrap();
        assert_eq!(y, expected, "{target}");
    }
}

#[test]
fn views_stacks_and_shuffles_find_their_elements() {
    // Transposes a 4 × 4 block that starts at element `offset`, through the stack.
    let params = [Param::read("x", Elem::F32, &[]), Param::write("y", Elem::F32, &[]), Param::scalar("offset")];
    let x: Vec<f32> = (0..40).map(|i| i as f32).collect();
    for target in targets() {
        let kernels = load(target, "transpose", &params, |b| {
            let index = |i| b.index(i);
            let block = b.view(b.buffer("x"), b.scalar("offset"), &[UNBOUNDED, 4]);
            let rows = [0, 1, 2, 3].map(|row| b.load_vector(block, (index(row), index(0)), 4));
            let (low, high) = (rows[0].interleave(rows[2]), rows[1].interleave(rows[3]));
            let columns = b.stack(Num::F32, &[2, 8]);
            b.store(low.slice(0, 4).interleave(high.slice(0, 4)), columns, (index(0), index(0)));
            b.store(low.slice(4, 4).interleave(high.slice(4, 4)), columns, (index(1), index(0)));
            b.for_each(index(0), index(2), 1, |pair| {
                let pair_at = pair * index(8);
                b.store(b.load_vector(columns, (pair, index(0)), 8), b.buffer("y"), pair_at);
            });
            // Lane 5 is extracted and inserted.
            let y = b.load_vector(b.buffer("y"), index(0), 8);
            let y = y.with_lane(5, y.lane(5) + 0.5);
            b.store(y, b.buffer("y"), index(0));
        });
        let mut y = vec![0.0f32; 16];
        kernels.call("transpose", 1, vec![Slot::read(&x), Slot::write(&mut y), Slot::Scalar(21)]).unwrap();
        let mut expected: Vec<f32> = (0..16).map(|i| x[21 + i % 4 * 4 + i / 4]).collect();
        expected[5] += 0.5;
        assert_eq!(y, expected, "{target}");
    }
}

#[test]
fn half_precision_converts_where_the_target_can() {
    let target = CpuTarget::new(X86Level::V3);
    if !target.runs_here() {
        return;
    }
    let params = [Param::read("x", Elem::F16, &[]), Param::write("y", Elem::F16, &[])];
    let kernels = load(target, "double", &params, |b| {
        let zero = b.index(0);
        let x = b.load_partial(b.buffer("x"), zero, 16, 10).to_f32();
        let y = (x * 2.0).to_f16();
        b.store_partial(y, b.buffer("y"), zero, 10);
    });
    let x: Vec<u16> = (0..10).map(|i| half::f16::from_f32(i as f32 * 0.3).to_bits()).collect();
    let mut y = vec![0u16; 10];
    kernels.call("double", 1, vec![Slot::read(&x), Slot::write(&mut y)]).unwrap();
    let expected: Vec<u16> =
        x.iter().map(|&x| half::f16::from_f32(half::f16::from_bits(x).to_f32() * 2.0).to_bits()).collect();
    assert_eq!(y, expected);
}

#[test]
fn a_mistake_is_reported_with_the_line_of_the_kernel() {
    let target = CpuTarget::new(X86Level::V3);
    let params = [Param::write("x", Elem::F32, &[])];
    let error = compile(target, None, |module| {
        module.kernel("twice", &params, |_| {});
        module.kernel("twice", &params, |_| {});
    })
    .unwrap_err()
    .to_string();
    assert!(error.starts_with("emit: MLIR refuses the module\n"), "{error}");
    assert!(error.contains("tests/kernels.rs:") && error.contains("redefinition of symbol"), "{error}");
}

#[test]
#[should_panic(expected = "add of f32 and vector<16xf32>")]
fn mixing_types_panics() {
    let _ = compile(CpuTarget::new(X86Level::V3), None, |module| {
        module.kernel("mixed", &[], |b| {
            let _ = b.f32(1.0) + b.splat(1.0, 16);
        });
    });
}

#[test]
fn numbers_take_the_type_of_the_value_they_meet() {
    let params =
        [Param::read("x", Elem::F32, &[]), Param::write("y", Elem::F32, &[]), Param::write("n", Elem::I32, &[])];
    let kernels = load(CpuTarget::new(X86Level::V3), "numbers", &params, |b| {
        let x = b.load_vector(b.buffer("x"), 0, 16);
        b.store(1.0 - x * 0.5, b.buffer("y"), 0);
        let lane = b.iota(16);
        let n = 100 - ((lane & 3) * 2 + 1) % 5;
        b.store(lane.lt(12).select(n, -7), b.buffer("n"), 0);
        let last = b.index(8) * 2 - 1;
        b.store(b.load(b.buffer("n"), last) << 2, b.buffer("n"), last);
    });
    let x: Vec<f32> = (0..16).map(|i| i as f32).collect();
    let (mut y, mut n) = (vec![0f32; 16], vec![0i32; 16]);
    kernels.call("numbers", 1, vec![Slot::read(&x), Slot::write(&mut y), Slot::write(&mut n)]).unwrap();
    assert_eq!(y, x.iter().map(|x| 1.0 - x * 0.5).collect::<Vec<_>>());
    let expected = (0..16).map(|lane| if lane < 12 { 100 - ((lane & 3) * 2 + 1) % 5 } else { -7 });
    let mut expected: Vec<i32> = expected.collect();
    expected[15] = -28;
    assert_eq!(n, expected);
}

#[test]
#[should_panic(expected = "the integer 1 as f32")]
fn integers_meet_no_floats() {
    let _ = compile(CpuTarget::new(X86Level::V3), None, |module| {
        module.kernel("mixed", &[], |b| {
            let _ = b.f32(1.0) + 1;
        });
    });
}

#[test]
fn a_kernel_after_one_that_panicked_is_built() {
    let target = CpuTarget::new(X86Level::V3);
    let params = [Param::write("x", Elem::F32, &[])];
    let mistake = |b: &Builder| {
        let _ = b.f32(1.0) + b.i32(1);
    };
    let panicked = std::panic::catch_unwind(|| compile(target, None, |module| module.kernel("mixed", &[], mistake)));
    assert!(panicked.is_err());
    let one = |b: &Builder| b.store(b.f32(0.5) + 0.5, b.buffer("x"), 0);
    let mut x = [0f32];
    load(target, "one", &params, one).call("one", 1, vec![Slot::write(&mut x)]).unwrap();
    assert_eq!(x, [1.0]);
}

#[test]
#[should_panic(expected = "while a kernel is under construction")]
fn values_belong_to_a_kernel() {
    let mut value = None;
    let target = CpuTarget::new(X86Level::V3);
    compile(target, None, |module| module.kernel("one", &[], |b| value = Some(b.i32(1)))).unwrap();
    let _ = value.unwrap() + 1;
}

#[test]
fn writing_outside_an_array_is_found() {
    let params = [Param::write("x", Elem::F32, &[])];
    let kernels = load(CpuTarget::new(X86Level::V2), "clear", &params, |b| {
        b.store(b.splat(0.0, 16), b.buffer("x"), 0);
    });
    let mut x = [1.0f32; 15];
    let error = kernels.call("clear", 1, vec![Slot::write(&mut x)]).unwrap_err();
    assert_eq!(error.to_string(), "clear wrote outside the array in slot 0");
}
