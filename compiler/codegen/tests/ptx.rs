//! Kernels for sm_90a compiled to PTX and, if ptxas is installed, assembled.

use jamba_plan::format::TargetKind;
use jambac_codegen::assemble::{assemble, find_ptxas};
use jambac_codegen::ptx::emit_ptx;
use jambac_codegen::{compile_kernels, compile_ptx};
use jambac_kernels::cpu::builder::{Num, Type};
use jambac_kernels::hopper::{Builder, Swizzle, TensorMap};
use jambac_kernels::kernel::{Config, Elem, Kernel, Param};
use jambac_kernels::rms_norm::Spec as RmsNorm;
use jambac_kernels::target::{CpuTarget, Target, X86Level};

/// Panics if ptxas rejects the text or reports a problem; prints a notice if ptxas is missing.
fn check(ptx: &str) {
    let Some(ptxas) = find_ptxas(None) else {
        eprintln!("SKIPPED: no ptxas in CUDA_HOME or PATH");
        return;
    };
    let assembled = assemble(&ptxas, ptx).unwrap_or_else(|error| panic!("{error}\n{ptx}"));
    assert_eq!(assembled.warnings, Vec::<String>::new());
    for (kernel, usage) in &assembled.kernels {
        println!("{kernel}: {usage:?}");
        assert_eq!((usage.spill_store_bytes, usage.stack_bytes), (0, 0), "{kernel}");
    }
}

fn kernel(params: &[Param], threads: u32, emit: impl FnOnce(&Builder)) -> String {
    let ptx = emit_ptx(None, |module| module.kernel("kernel", params, threads, emit));
    ptx.unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_row_wise_kernel_is_wide_and_has_lines() {
    let spec = |residual| RmsNorm { cols: 4096, eps: 1e-6, residual, out: Elem::Bf16 };
    let kernels = [false, true].map(|residual| spec(residual).lower(TargetKind::Sm90a, Config::Only).swap_remove(0));
    let ptx = compile_ptx(&kernels, None).unwrap();
    assert_eq!(ptx, compile_ptx(&kernels, None).unwrap(), "the same kernels, other text");
    // lld resets LLVM's options, also those of this target.
    let target = Target::Cpu(CpuTarget::new(X86Level::V3));
    compile_kernels(target, &spec(false).lower(target.kind(), Config::Only), None).unwrap();
    assert_eq!(ptx, compile_ptx(&kernels, None).unwrap(), "other text after a link");
    for part in [
        ".version 8.0",
        ".target sm_90a",
        ".entry rms_norm_d4096_e358637bd_sm90(",
        ".reqntid 512, 1, 1",
        "ld.global.nc.v4.f32",
        "rsqrt.approx.ftz.f32",
        "st.global.v2.u32",
        "kernels/src/rms_norm/hopper.rs",
        ".extern .shared .align 1024 .b8 dynamic_shared[]",
    ] {
        assert!(ptx.contains(part), "no {part} in\n{ptx}");
    }
    assert!(!ptx.contains(", debug"), "{ptx}");
    check(&ptx);
}

#[test]
fn instructions_assemble() {
    let map = TensorMap { elem: Elem::Bf16, cols: 256, box_rows: 64, box_cols: 64, swizzle: Swizzle::B128 };
    let params = [
        Param::tensor_map("map", map),
        Param::read("x", Elem::Bf16, &[256]),
        Param::read_write("y", Elem::F32, &[]),
        Param::count("rows"),
        Param::scalar("n"),
    ];
    let ptx = kernel(&params, 128, |b| {
        let (x, y, map) = (b.pointer("x"), b.pointer("y"), b.tensor_map("map"));
        let (thread, zero) = (b.thread(), b.i32(0));
        b.exit_if(b.block().ge(b.count("rows")));
        let (barrier, tile) = (b.shared(), b.shared_at(1024));
        let first = b.uniform_warp().eq(zero);
        b.if_(first, || {
            b.if_(b.elect(), || {
                b.mbarrier_init(barrier, 1);
                b.fence_mbarrier_init();
                b.prefetch_tensor_map(map);
                b.mbarrier_arrive_expect_tx(barrier, b.i32(2 * map_bytes(&map_of(&params))));
                b.cp_async_bulk_tensor_2d(tile, map, [b.block(), zero], barrier);
                b.cp_async_bulk(b.shared_at(9216), x, b.i32(8192), barrier);
            });
        });
        b.sync();
        b.mbarrier_wait(barrier, zero);
        b.mbarrier_arrive(barrier);
        b.mbarrier_arrive_if(barrier, first);
        b.fence_async_shared();

        // Products of both kinds, on fragments of one matrix.
        let row = b.at(tile, thread * 16);
        let fragment = b.ldmatrix_x4(row);
        let turned = b.ldmatrix_x4_trans(row);
        let none = [b.f32(0.0); 4];
        let small = b.mma_m16n8k16(fragment, [turned[0], turned[1]], none);
        let descriptor = (b.address(tile) >> 4).to_i64();
        let none = vec![b.f32(0.0); 32];
        b.wgmma_fence();
        let large = b.wgmma_ss(&none, descriptor, descriptor, zero);
        let large = b.wgmma_rs(&large, fragment, descriptor, b.i32(1));
        b.wgmma_commit();
        b.wgmma_wait(0);
        b.stmatrix_x4(row, fragment);
        b.stmatrix_x4_trans(row, turned);

        b.cp_async_16(b.shared_at(32768), x);
        b.cp_async_16_zfill(b.shared_at(32784), x, thread);
        b.cp_async_commit();
        b.cp_async_wait(0);
        b.sync_warp();
        b.sync_threads(b.i32(3), 128);
        b.griddepcontrol_wait();
        b.griddepcontrol_launch_dependents();
        b.fence_device();

        let sum = large.iter().chain(&small).fold(b.f32(0.0), |sum, &x| sum + x);
        let sum = b.warp_max(b.softplus(sum)) + b.silu(b.group_sum(sum, 4));
        let sum = sum + (b.shuffle_up(sum, 1) + b.shuffle_down(sum, 2));
        let votes = b.ballot(sum.gt(0.0));
        let before = b.atomic_add_acq_rel(b.at_byte(y, 4), votes);
        let before = before + b.atomic_add_shared(barrier, before);
        b.store(before, b.at(y, b.scalar("n")));
        let at = b.row(y, b.block_y() + b.n_blocks(), 512);
        let pair = b.load(at, Type::vector(Num::F32, 2));
        let [low, high] = b.unpack_bf16(b.pack_bf16(pair.lane(0), sum));
        b.store(b.round_bf16(low + high), at);
    });
    for part in ["wgmma.mma_async.sync.aligned.m64n64k16", "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"] {
        assert!(ptx.contains(part), "no {part} in\n{ptx}");
    }
    check(&ptx);
}

#[test]
fn setmaxnreg_is_taken() {
    let ptx = kernel(&[Param::write("y", Elem::F32, &[])], 256, |b| {
        let is_producer = b.uniform_warp().lt(4);
        b.if_else(
            is_producer,
            || {
                b.setmaxnreg_dec(40);
                []
            },
            || {
                b.setmaxnreg_inc(232);
                b.store(b.f32(1.0), b.at(b.pointer("y"), b.thread() * 4));
                []
            },
        );
    });
    check(&ptx);
}

#[test]
fn loops_with_effects_are_not_copied() {
    // A loop that the optimizer would peel if its body were not convergent.
    let ptx = kernel(&[Param::read("x", Elem::F32, &[]), Param::count("n")], 128, |b| {
        let first = b.thread().eq(0);
        b.for_range(0, b.count("n"), 1, [b.i32(0)], |i, [parity]| {
            b.if_(first, || {
                b.if_(i.gt(2), || b.mbarrier_wait(b.shared(), parity));
                b.cp_async_bulk(b.shared_at(1024), b.pointer("x"), b.i32(512), b.shared());
            });
            [parity ^ 1]
        });
    });
    assert_eq!(ptx.matches("cp.async.bulk").count(), 1, "{ptx}");
    check(&ptx);
}

fn map_of(params: &[Param]) -> TensorMap {
    match params[0] {
        Param::TensorMap { map, .. } => map,
        _ => panic!("the first slot is a tensor map"),
    }
}

fn map_bytes(map: &TensorMap) -> i32 {
    map.box_bytes() as i32
}
