	.text
	.file	"kernels"
	.section	.rodata.cst4,"aM",@progbits,4
	.p2align	2, 0x0
.LCPI0_0:
	.long	0x41c00000
.LCPI0_1:
	.long	0x358637bd
.LCPI0_2:
	.long	0x3f800000
	.text
	.globl	rms_norm_d24_e358637bd
	.p2align	4, 0x90
	.type	rms_norm_d24_e358637bd,@function
rms_norm_d24_e358637bd:
	movq	%rdx, %rcx
	movq	(%rdi), %r8
	movq	8(%rdi), %r10
	movq	16(%rdi), %r9
	movq	24(%rdi), %rdi
	leaq	(%rdx,%rdi), %rax
	decq	%rax
	movq	%rax, %rdx
	orq	%rcx, %rdx
	shrq	$32, %rdx
	testq	%rdx, %rdx
	je	.LBB0_1
	je	.LBB0_1
	xorl	%edx, %edx
	divq	%rcx
	jmp	.LBB0_4
.LBB0_1:
	xorl	%edx, %edx
	divl	%ecx
.LBB0_4:
	imulq	%rax, %rsi
	cmpq	%rdi, %rsi
	movq	%rdi, %rcx
	cmovlq	%rsi, %rcx
	addq	%rcx, %rax
	cmpq	%rdi, %rax
	cmovgeq	%rdi, %rax
	cmpq	%rax, %rsi
	jge	.LBB0_7
	vmovups	(%r10), %ymm0
	vmovups	32(%r10), %ymm1
	vmovups	64(%r10), %ymm2
	vmovups	96(%r10), %ymm3
	movq	%rcx, %rdx
	shlq	$7, %rdx
	orq	$64, %rdx
	vxorps	%xmm4, %xmm4, %xmm4
	vmovss	.LCPI0_0(%rip), %xmm5
	vmovss	.LCPI0_1(%rip), %xmm6
	vmovss	.LCPI0_2(%rip), %xmm7
	.p2align	4, 0x90
.LBB0_6:
	vmovups	-64(%r8,%rdx), %ymm8
	vmovups	-32(%r8,%rdx), %ymm9
	vmovups	(%r8,%rdx), %ymm10
	vmovaps	%ymm9, %ymm11
	vfmadd213ps	%ymm4, %ymm9, %ymm11
	vmovaps	%ymm8, %ymm12
	vfmadd213ps	%ymm4, %ymm8, %ymm12
	vfmadd231ps	%ymm10, %ymm10, %ymm12
	vfmadd231ps	%ymm4, %ymm4, %ymm11
	vaddps	%ymm11, %ymm12, %ymm11
	vextractf128	$1, %ymm11, %xmm12
	vaddps	%xmm12, %xmm11, %xmm11
	vshufpd	$1, %xmm11, %xmm11, %xmm12
	vaddps	%xmm12, %xmm11, %xmm11
	vmovshdup	%xmm11, %xmm12
	vaddss	%xmm12, %xmm11, %xmm11
	vdivss	%xmm5, %xmm11, %xmm11
	vaddss	%xmm6, %xmm11, %xmm11
	vsqrtss	%xmm11, %xmm11, %xmm11
	vdivss	%xmm11, %xmm7, %xmm11
	vbroadcastss	%xmm11, %ymm11
	vmulps	%ymm8, %ymm11, %ymm8
	vmulps	%ymm0, %ymm8, %ymm8
	vmulps	%ymm9, %ymm11, %ymm9
	vmulps	32(%r8,%rdx), %ymm11, %ymm12
	vmulps	%ymm1, %ymm9, %ymm9
	vmulps	%ymm3, %ymm12, %ymm12
	vmovups	%ymm8, -64(%r9,%rdx)
	vmovups	%ymm9, -32(%r9,%rdx)
	vmulps	%ymm10, %ymm11, %ymm8
	vmulps	%ymm2, %ymm8, %ymm8
	vmovups	%ymm8, (%r9,%rdx)
	vmovups	%ymm12, 32(%r9,%rdx)
	incq	%rcx
	subq	$-128, %rdx
	cmpq	%rax, %rcx
	jl	.LBB0_6
.LBB0_7:
	vzeroupper
	retq
.Lfunc_end0:
	.size	rms_norm_d24_e358637bd, .Lfunc_end0-rms_norm_d24_e358637bd

	.section	".note.GNU-stack","",@progbits
