; ModuleID = 'LLVMDialectModule'
source_filename = "kernels"
target datalayout = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128"
target triple = "x86_64-unknown-linux-gnu"

; Function Attrs: mustprogress nocallback nofree nosync nounwind speculatable willreturn memory(none)
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>) #0

; Function Attrs: mustprogress nocallback nofree nosync nounwind speculatable willreturn memory(none)
declare float @llvm.sqrt.f32(float) #0

; Function Attrs: nofree norecurse nosync nounwind
define void @rms_norm_d24_e358637bd(ptr nocapture readonly %0, i64 %1, i64 %2) local_unnamed_addr #1 {
entry:
  %arg = load ptr, ptr %0, align 8
  %slot1 = getelementptr inbounds i8, ptr %0, i64 8
  %arg2 = load ptr, ptr %slot1, align 8
  %slot3 = getelementptr inbounds i8, ptr %0, i64 16
  %arg4 = load ptr, ptr %slot3, align 8
  %slot5 = getelementptr inbounds i8, ptr %0, i64 24
  %arg6 = load i64, ptr %slot5, align 8
  tail call void @llvm.experimental.noalias.scope.decl(metadata !1)
  tail call void @llvm.experimental.noalias.scope.decl(metadata !4)
  tail call void @llvm.experimental.noalias.scope.decl(metadata !6)
  %3 = add i64 %2, -1
  %4 = add i64 %3, %arg6
  %5 = udiv i64 %4, %2
  %6 = mul i64 %5, %1
  %7 = tail call i64 @llvm.smin.i64(i64 %6, i64 %arg6)
  %8 = add i64 %7, %5
  %9 = tail call i64 @llvm.smin.i64(i64 %8, i64 %arg6)
  %10 = icmp slt i64 %6, %9
  br i1 %10, label %.preheader.preheader, label %rms_norm_d24_e358637bd.body.exit

.preheader.preheader:                             ; preds = %entry
  %.pre = load <16 x float>, ptr %arg2, align 4, !alias.scope !4, !noalias !8
  %.phi.trans.insert = getelementptr i8, ptr %arg2, i64 64
  %.pre7 = load <16 x float>, ptr %.phi.trans.insert, align 4, !alias.scope !4, !noalias !8
  br label %.preheader

.preheader:                                       ; preds = %.preheader.preheader, %.preheader
  %11 = phi i64 [ %46, %.preheader ], [ %7, %.preheader.preheader ]
  %.idx.i = shl i64 %11, 7
  %12 = getelementptr i8, ptr %arg, i64 %.idx.i
  %13 = load <16 x float>, ptr %12, align 4, !alias.scope !1, !noalias !9
  %14 = tail call <16 x float> @llvm.fma.v16f32(<16 x float> %13, <16 x float> %13, <16 x float> zeroinitializer)
  %15 = shl i64 %11, 5
  %16 = or disjoint i64 %15, 16
  %17 = getelementptr float, ptr %arg, i64 %16
  %18 = load <16 x float>, ptr %17, align 4, !alias.scope !1, !noalias !9
  %19 = shufflevector <16 x float> %18, <16 x float> <float poison, float poison, float poison, float poison, float poison, float poison, float poison, float poison, float 0.000000e+00, float 0.000000e+00, float 0.000000e+00, float 0.000000e+00, float 0.000000e+00, float 0.000000e+00, float 0.000000e+00, float 0.000000e+00>, <16 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7, i32 24, i32 25, i32 26, i32 27, i32 28, i32 29, i32 30, i32 31>
  %20 = tail call <16 x float> @llvm.fma.v16f32(<16 x float> %19, <16 x float> %19, <16 x float> %14)
  %21 = shufflevector <16 x float> %20, <16 x float> poison, <8 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7>
  %22 = shufflevector <16 x float> %20, <16 x float> poison, <8 x i32> <i32 8, i32 9, i32 10, i32 11, i32 12, i32 13, i32 14, i32 15>
  %23 = fadd <8 x float> %21, %22
  %24 = shufflevector <8 x float> %23, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %25 = shufflevector <8 x float> %23, <8 x float> poison, <4 x i32> <i32 4, i32 5, i32 6, i32 7>
  %26 = fadd <4 x float> %24, %25
  %27 = shufflevector <4 x float> %26, <4 x float> poison, <2 x i32> <i32 0, i32 1>
  %28 = shufflevector <4 x float> %26, <4 x float> poison, <2 x i32> <i32 2, i32 3>
  %29 = fadd <2 x float> %27, %28
  %30 = shufflevector <2 x float> %29, <2 x float> poison, <1 x i32> zeroinitializer
  %31 = shufflevector <2 x float> %29, <2 x float> poison, <1 x i32> <i32 1>
  %32 = fadd <1 x float> %30, %31
  %33 = extractelement <1 x float> %32, i64 0
  %34 = fdiv float %33, 2.400000e+01
  %35 = fadd float %34, 0x3EB0C6F7A0000000
  %36 = tail call float @llvm.sqrt.f32(float %35)
  %37 = fdiv float 1.000000e+00, %36
  %38 = insertelement <16 x float> poison, float %37, i64 0
  %39 = shufflevector <16 x float> %38, <16 x float> poison, <16 x i32> zeroinitializer
  %40 = fmul <16 x float> %39, %13
  %41 = fmul <16 x float> %40, %.pre
  %42 = getelementptr float, ptr %arg4, i64 %15
  store <16 x float> %41, ptr %42, align 4, !alias.scope !6, !noalias !10
  %43 = fmul <16 x float> %39, %18
  %44 = fmul <16 x float> %43, %.pre7
  %45 = getelementptr float, ptr %arg4, i64 %16
  store <16 x float> %44, ptr %45, align 4, !alias.scope !6, !noalias !10
  %46 = add nsw i64 %11, 1
  %47 = icmp slt i64 %46, %9
  br i1 %47, label %.preheader, label %rms_norm_d24_e358637bd.body.exit

rms_norm_d24_e358637bd.body.exit:                 ; preds = %.preheader, %entry
  ret void
}

; Function Attrs: nocallback nofree nosync nounwind speculatable willreturn memory(none)
declare i64 @llvm.smin.i64(i64, i64) #2

; Function Attrs: nocallback nofree nosync nounwind willreturn memory(inaccessiblemem: readwrite)
declare void @llvm.experimental.noalias.scope.decl(metadata) #3

attributes #0 = { mustprogress nocallback nofree nosync nounwind speculatable willreturn memory(none) }
attributes #1 = { nofree norecurse nosync nounwind "no-builtins" "target-cpu"="x86-64-v3" }
attributes #2 = { nocallback nofree nosync nounwind speculatable willreturn memory(none) }
attributes #3 = { nocallback nofree nosync nounwind willreturn memory(inaccessiblemem: readwrite) }

!llvm.module.flags = !{!0}

!0 = !{i32 2, !"Debug Info Version", i32 3}
!1 = !{!2}
!2 = distinct !{!2, !3, !"rms_norm_d24_e358637bd.body: argument 0"}
!3 = distinct !{!3, !"rms_norm_d24_e358637bd.body"}
!4 = !{!5}
!5 = distinct !{!5, !3, !"rms_norm_d24_e358637bd.body: argument 1"}
!6 = !{!7}
!7 = distinct !{!7, !3, !"rms_norm_d24_e358637bd.body: argument 2"}
!8 = !{!2, !7}
!9 = !{!5, !7}
!10 = !{!2, !5}
