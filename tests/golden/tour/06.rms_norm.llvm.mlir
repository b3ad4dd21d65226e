module {
  llvm.func @rms_norm_d24_e358637bd.body(%arg0: !llvm.ptr {llvm.noalias, llvm.noundef, llvm.readonly}, %arg1: !llvm.ptr {llvm.noalias, llvm.noundef, llvm.readonly}, %arg2: !llvm.ptr {llvm.noalias, llvm.noundef}, %arg3: i64 {llvm.noundef}, %arg4: i64, %arg5: i64) {
    %0 = llvm.mlir.constant(0 : i32) : i32
    %1 = llvm.mlir.undef : vector<16xf32>
    %2 = llvm.mlir.constant(0 : i64) : i64
    %3 = llvm.mlir.constant(dense<0.000000e+00> : vector<16xf32>) : vector<16xf32>
    %4 = llvm.mlir.constant(16 : index) : i64
    %5 = llvm.mlir.constant(2.400000e+01 : f32) : f32
    %6 = llvm.mlir.constant(9.99999997E-7 : f32) : f32
    %7 = llvm.mlir.constant(1.000000e+00 : f32) : f32
    %8 = llvm.mlir.constant(dense<[true, true, true, true, true, true, true, true, false, false, false, false, false, false, false, false]> : vector<16xi1>) : vector<16xi1>
    %9 = llvm.mlir.constant(1 : index) : i64
    %10 = llvm.mlir.constant(32 : index) : i64
    %11 = llvm.mlir.constant(0 : index) : i64
    %12 = llvm.add %arg3, %arg5 : i64
    %13 = llvm.sub %12, %9 : i64
    %14 = llvm.udiv %13, %arg5  : i64
    %15 = llvm.mul %14, %arg4 : i64
    %16 = llvm.icmp "slt" %15, %arg3 : i64
    %17 = llvm.select %16, %15, %arg3 : i1, i64
    %18 = llvm.add %17, %14 : i64
    %19 = llvm.icmp "slt" %18, %arg3 : i64
    %20 = llvm.select %19, %18, %arg3 : i1, i64
    llvm.br ^bb1(%17 : i64)
  ^bb1(%21: i64):  // 2 preds: ^bb0, ^bb8
    %22 = llvm.icmp "slt" %21, %20 : i64
    llvm.cond_br %22, ^bb2, ^bb9
  ^bb2:  // pred: ^bb1
    llvm.br ^bb3(%11, %3 : i64, vector<16xf32>)
  ^bb3(%23: i64, %24: vector<16xf32>):  // 2 preds: ^bb2, ^bb4
    %25 = llvm.icmp "slt" %23, %4 : i64
    llvm.cond_br %25, ^bb4, ^bb5
  ^bb4:  // pred: ^bb3
    %26 = llvm.mul %21, %10 : i64
    %27 = llvm.add %26, %23 : i64
    %28 = llvm.getelementptr %arg0[%27] : (!llvm.ptr, i64) -> !llvm.ptr, f32
    %29 = llvm.load %28 {alignment = 4 : i64} : !llvm.ptr -> vector<16xf32>
    %30 = llvm.intr.fma(%29, %29, %24)  : (vector<16xf32>, vector<16xf32>, vector<16xf32>) -> vector<16xf32>
    %31 = llvm.add %23, %4 : i64
    llvm.br ^bb3(%31, %30 : i64, vector<16xf32>)
  ^bb5:  // pred: ^bb3
    %32 = llvm.mul %21, %10 : i64
    %33 = llvm.add %32, %4 : i64
    %34 = llvm.getelementptr %arg0[%33] : (!llvm.ptr, i64) -> !llvm.ptr, f32
    %35 = llvm.load %34 {alignment = 4 : i64} : !llvm.ptr -> vector<16xf32>
    %36 = llvm.select %8, %35, %3 : vector<16xi1>, vector<16xf32>
    %37 = llvm.intr.fma(%36, %36, %24)  : (vector<16xf32>, vector<16xf32>, vector<16xf32>) -> vector<16xf32>
    %38 = llvm.shufflevector %37, %37 [0, 1, 2, 3, 4, 5, 6, 7] : vector<16xf32> 
    %39 = llvm.shufflevector %37, %37 [8, 9, 10, 11, 12, 13, 14, 15] : vector<16xf32> 
    %40 = llvm.fadd %38, %39  : vector<8xf32>
    %41 = llvm.shufflevector %40, %40 [0, 1, 2, 3] : vector<8xf32> 
    %42 = llvm.shufflevector %40, %40 [4, 5, 6, 7] : vector<8xf32> 
    %43 = llvm.fadd %41, %42  : vector<4xf32>
    %44 = llvm.shufflevector %43, %43 [0, 1] : vector<4xf32> 
    %45 = llvm.shufflevector %43, %43 [2, 3] : vector<4xf32> 
    %46 = llvm.fadd %44, %45  : vector<2xf32>
    %47 = llvm.shufflevector %46, %46 [0] : vector<2xf32> 
    %48 = llvm.shufflevector %46, %46 [1] : vector<2xf32> 
    %49 = llvm.fadd %47, %48  : vector<1xf32>
    %50 = llvm.extractelement %49[%2 : i64] : vector<1xf32>
    %51 = llvm.fdiv %50, %5  : f32
    %52 = llvm.fadd %51, %6  : f32
    %53 = llvm.intr.sqrt(%52)  : (f32) -> f32
    %54 = llvm.fdiv %7, %53  : f32
    %55 = llvm.insertelement %54, %1[%0 : i32] : vector<16xf32>
    %56 = llvm.shufflevector %55, %1 [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] : vector<16xf32> 
    llvm.br ^bb6(%11 : i64)
  ^bb6(%57: i64):  // 2 preds: ^bb5, ^bb7
    %58 = llvm.icmp "slt" %57, %10 : i64
    llvm.cond_br %58, ^bb7, ^bb8
  ^bb7:  // pred: ^bb6
    %59 = llvm.add %32, %57 : i64
    %60 = llvm.getelementptr %arg0[%59] : (!llvm.ptr, i64) -> !llvm.ptr, f32
    %61 = llvm.load %60 {alignment = 4 : i64} : !llvm.ptr -> vector<16xf32>
    %62 = llvm.fmul %61, %56  : vector<16xf32>
    %63 = llvm.getelementptr %arg1[%57] : (!llvm.ptr, i64) -> !llvm.ptr, f32
    %64 = llvm.load %63 {alignment = 4 : i64} : !llvm.ptr -> vector<16xf32>
    %65 = llvm.fmul %62, %64  : vector<16xf32>
    %66 = llvm.getelementptr %arg2[%59] : (!llvm.ptr, i64) -> !llvm.ptr, f32
    llvm.store %65, %66 {alignment = 4 : i64} : vector<16xf32>, !llvm.ptr
    %67 = llvm.add %57, %4 : i64
    llvm.br ^bb6(%67 : i64)
  ^bb8:  // pred: ^bb6
    %68 = llvm.add %21, %9 : i64
    llvm.br ^bb1(%68 : i64)
  ^bb9:  // pred: ^bb1
    llvm.return
  }
}
