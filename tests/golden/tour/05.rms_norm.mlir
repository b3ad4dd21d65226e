module {
  func.func @rms_norm_d24_e358637bd.body(%arg0: memref<1073741824x32xf32> {llvm.noalias, llvm.noundef, llvm.readonly}, %arg1: memref<1073741824xf32> {llvm.noalias, llvm.noundef, llvm.readonly}, %arg2: memref<1073741824x32xf32> {llvm.noalias, llvm.noundef}, %arg3: index {llvm.noundef}, %arg4: index, %arg5: index) {
    %0 = arith.addi %arg3, %arg5 : index
    %c1 = arith.constant 1 : index
    %1 = arith.subi %0, %c1 : index
    %2 = arith.divui %1, %arg5 : index
    %3 = arith.muli %2, %arg4 : index
    %4 = arith.cmpi slt, %3, %arg3 : index
    %5 = arith.select %4, %3, %arg3 : index
    %6 = arith.addi %5, %2 : index
    %7 = arith.cmpi slt, %6, %arg3 : index
    %8 = arith.select %7, %6, %arg3 : index
    %c1_0 = arith.constant 1 : index
    scf.for %arg6 = %5 to %8 step %c1_0 {
      %cst = arith.constant dense<0.000000e+00> : vector<16xf32>
      %c0 = arith.constant 0 : index
      %c16 = arith.constant 16 : index
      %c16_1 = arith.constant 16 : index
      %9 = scf.for %arg7 = %c0 to %c16 step %c16_1 iter_args(%arg8 = %cst) -> (vector<16xf32>) {
        %32 = vector.load %arg0[%arg6, %arg7] : memref<1073741824x32xf32>, vector<16xf32>
        %33 = math.fma %32, %32, %arg8 : vector<16xf32>
        scf.yield %33 : vector<16xf32>
      }
      %cst_2 = arith.constant dense<[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]> : vector<16xi32>
      %cst_3 = arith.constant dense<8> : vector<16xi32>
      %10 = arith.cmpi slt, %cst_2, %cst_3 : vector<16xi32>
      %c16_4 = arith.constant 16 : index
      %11 = vector.load %arg0[%arg6, %c16_4] : memref<1073741824x32xf32>, vector<16xf32>
      %12 = arith.select %10, %11, %cst : vector<16xi1>, vector<16xf32>
      %13 = math.fma %12, %12, %9 : vector<16xf32>
      %14 = vector.shuffle %13, %13 [0, 1, 2, 3, 4, 5, 6, 7] : vector<16xf32>, vector<16xf32>
      %15 = vector.shuffle %13, %13 [8, 9, 10, 11, 12, 13, 14, 15] : vector<16xf32>, vector<16xf32>
      %16 = arith.addf %14, %15 : vector<8xf32>
      %17 = vector.shuffle %16, %16 [0, 1, 2, 3] : vector<8xf32>, vector<8xf32>
      %18 = vector.shuffle %16, %16 [4, 5, 6, 7] : vector<8xf32>, vector<8xf32>
      %19 = arith.addf %17, %18 : vector<4xf32>
      %20 = vector.shuffle %19, %19 [0, 1] : vector<4xf32>, vector<4xf32>
      %21 = vector.shuffle %19, %19 [2, 3] : vector<4xf32>, vector<4xf32>
      %22 = arith.addf %20, %21 : vector<2xf32>
      %23 = vector.shuffle %22, %22 [0] : vector<2xf32>, vector<2xf32>
      %24 = vector.shuffle %22, %22 [1] : vector<2xf32>, vector<2xf32>
      %25 = arith.addf %23, %24 : vector<1xf32>
      %26 = vector.extract %25[0] : f32 from vector<1xf32>
      %cst_5 = arith.constant 2.400000e+01 : f32
      %27 = arith.divf %26, %cst_5 : f32
      %cst_6 = arith.constant 9.99999997E-7 : f32
      %28 = arith.addf %27, %cst_6 : f32
      %29 = math.sqrt %28 : f32
      %cst_7 = arith.constant 1.000000e+00 : f32
      %30 = arith.divf %cst_7, %29 : f32
      %31 = vector.broadcast %30 : f32 to vector<16xf32>
      %c0_8 = arith.constant 0 : index
      %c32 = arith.constant 32 : index
      %c16_9 = arith.constant 16 : index
      scf.for %arg7 = %c0_8 to %c32 step %c16_9 {
        %32 = vector.load %arg0[%arg6, %arg7] : memref<1073741824x32xf32>, vector<16xf32>
        %33 = arith.mulf %32, %31 : vector<16xf32>
        %34 = vector.load %arg1[%arg7] : memref<1073741824xf32>, vector<16xf32>
        %35 = arith.mulf %33, %34 : vector<16xf32>
        vector.store %35, %arg2[%arg6, %arg7] : memref<1073741824x32xf32>, vector<16xf32>
      }
    }
    return
  }
}
