# ruff: noqa: E501
"""Functions of JAX with what is proved of them, and whether the proved pattern is exact.

Every function of `jax.nn` that has a derivative, and more from `jax.numpy`, `jax.lax` and
`jax.scipy`. A line is `MODULE:FUNCTION SPEC ... | kind exact; kind wide; ...`, one kind for every
block. Exact: every entry of the proved pattern is nonzero at some point; wide: some entry is zero at
all points tried, because the operation is taken as a whole (a factorisation), because where it is
nonzero depends on values (sorting, indices), or because no point tried reaches it.
"""

TABLE = """
jax.nn:celu f32[6] | diagonal exact
jax.nn:dot_product_attention f32[2,3,2,4] f32[2,3,2,4] f32[2,3,2,4] | block-diagonal exact; block-diagonal exact; block-diagonal exact
jax.nn:elu f32[6] | diagonal exact
jax.nn:gelu f32[6] | diagonal exact
jax.nn:glu f32[3,4] | block-diagonal exact
jax.nn:hard_sigmoid f32[6] | diagonal exact
jax.nn:hard_silu f32[6] | diagonal exact
jax.nn:hard_swish f32[6] | diagonal exact
jax.nn:hard_tanh f32[6] | diagonal exact
jax.nn:identity f32[6] | identity exact
jax.nn:leaky_relu f32[6] | diagonal exact
jax.nn:log1mexp f32[6]:positive | diagonal exact
jax.nn:log_sigmoid f32[6] | diagonal exact
jax.nn:log_softmax f32[3,4] | block-diagonal exact
jax.nn:logmeanexp f32[6] | dense exact
jax.nn:logsumexp f32[3,4] 1 | block-diagonal exact
jax.nn:mish f32[6] | diagonal exact
jax.nn:relu f32[6] | diagonal exact
jax.nn:relu6 f32[6] | diagonal exact
jax.nn:selu f32[6] | diagonal exact
jax.nn:sigmoid f32[6] | diagonal exact
jax.nn:silu f32[6] | diagonal exact
jax.nn:soft_sign f32[6] | diagonal exact
jax.nn:softmax f32[3,4] | block-diagonal exact
jax.nn:softplus f32[6] | diagonal exact
jax.nn:sparse_plus f32[6] | diagonal exact
jax.nn:sparse_sigmoid f32[6] | diagonal exact
jax.nn:squareplus f32[6] | diagonal exact
jax.nn:standardize f32[3,4] | block-diagonal exact
jax.nn:swish f32[6] | diagonal exact
jax.nn:tanh f32[6] | diagonal exact
jax.numpy:sort f32[3,4] | block-diagonal wide
jax.numpy:cumsum f32[6] | lower-triangular exact
jax.numpy:cumprod f32[6] | lower-triangular exact
jax.numpy:diff f32[6] | banded exact
jax.numpy:flip f32[6] | permutation exact
jax.numpy:roll f32[6] 2 | permutation exact
jax.numpy:tile f32[3] 2 | selection exact
jax.numpy:repeat f32[3] 2 | selection exact
jax.numpy:transpose f32[2,3] | permutation exact
jax.numpy:ravel f32[2,3] | identity exact
jax.numpy:tril f32[3,3] | diagonal exact
jax.numpy:triu f32[3,3] | diagonal exact
jax.numpy:trace f32[3,3] | sparse exact
jax.numpy:diag f32[3] | selection exact
jax.numpy:diagonal f32[3,3] | selection exact
jax.numpy:outer f32[3] f32[4] | block-diagonal exact; toeplitz exact
jax.numpy:inner f32[3] f32[3] | dense exact; dense exact
jax.numpy:matmul f32[2,3] f32[3,4] | block-diagonal exact; kronecker exact
jax.numpy:dot f32[3] f32[3] | dense exact; dense exact
jax.numpy:kron f32[2,2] f32[2,3] | block-diagonal exact; sparse exact
jax.numpy:cross f32[3] f32[3] | dense exact; dense exact
jax.numpy:convolve f32[6] f32[3] | banded exact; toeplitz exact
jax.numpy:interp f32[4] f32[5]:arange f32[5] | diagonal wide; dense wide; dense wide
jax.numpy:mean f32[2,3] 1 | block-diagonal exact
jax.numpy:var f32[2,3] 1 | block-diagonal exact
jax.numpy:std f32[2,3] 0 | sparse exact
jax.numpy:max f32[2,3] 1 | block-diagonal exact
jax.numpy:median f32[5] | dense exact
jax.numpy:prod f32[4] | dense exact
jax.numpy:clip f32[6] -0.5 0.5 | diagonal exact; dense exact; dense exact
jax.numpy:where bool[6] f32[6] f32[6] | diagonal wide; diagonal wide
jax.numpy:hypot f32[6] f32[6] | diagonal exact; diagonal exact
jax.numpy:logaddexp f32[6] f32[6] | diagonal exact; diagonal exact
jax.numpy:take f32[4] i32[3] | dense wide
jax.numpy:partition f32[5] 2 | dense wide
jax.numpy:trapezoid f32[6] | dense exact
jax.numpy:gradient f32[6] | banded exact
jax.numpy:polyval f32[4] f32[3] | dense exact; diagonal exact
jax.numpy:vander f32[3] | block-diagonal wide
jax.numpy:histogram f32[6] | zero exact; dense wide
jax.numpy:sinc f32[6] | diagonal exact
jax.numpy:cov f32[3,4] | dense exact
jax.numpy:nan_to_num f32[6] | diagonal exact
jax.numpy:quantile f32[5] 0.3 | dense exact; diagonal exact
jax.numpy.linalg:inv f32[3,3] | dense exact
jax.numpy.linalg:det f32[3,3] | dense exact
jax.numpy.linalg:norm f32[6] | dense exact
jax.numpy.linalg:solve f32[3,3] f32[3] | dense exact; dense exact
jax.numpy.linalg:svdvals f32[3,2] | dense exact
jax.numpy.linalg:slogdet f32[3,3] | zero exact; dense exact
jax.numpy.linalg:matrix_power f32[3,3] 3 | dense exact
jax.numpy.linalg:pinv f32[3,2] | dense exact
jax.numpy.fft:irfft f32[5] | dense wide
jax.lax:cummax f32[6] | lower-triangular wide
jax.lax:cumlogsumexp f32[6] | lower-triangular exact
jax.lax:rsqrt f32[6]:positive | diagonal exact
jax.lax:erf_inv f32[6]:uniform | diagonal exact
jax.lax:top_k f32[3,4] 2 | block-diagonal wide
jax.lax:reciprocal f32[6]:positive | diagonal exact
jax.lax:dynamic_slice_in_dim f32[6] i32[] 3 | dense wide
jax.scipy.special:logsumexp f32[5] | dense exact
jax.scipy.special:entr f32[6]:positive | diagonal exact
jax.scipy.special:gammaln f32[6]:positive | diagonal exact
jax.scipy.special:xlogy f32[6]:positive f32[6]:positive | diagonal exact; diagonal exact
jax.scipy.special:logit f32[6]:uniform | diagonal exact
jax.scipy.special:erf f32[6] | diagonal exact
jax.scipy.special:ndtri f32[6]:uniform | diagonal exact
jax.scipy.linalg:expm f32[3,3] | dense exact
jax.scipy.linalg:block_diag f32[2,2] f32[2,2] | selection exact; selection exact
jax.scipy.linalg:toeplitz f32[4] | selection exact
jax.scipy.signal:convolve f32[6] f32[3] | banded exact; toeplitz exact
jax.scipy.signal:detrend f32[6] | dense exact
jax.scipy.stats.norm:logpdf f32[6] | diagonal exact
jax.scipy.stats.multivariate_normal:logpdf f32[3] f32[3] f32[3,3] | dense wide; dense wide; dense wide
jax.scipy.integrate:trapezoid f32[6] | dense exact
jax.nn:one_hot f32[3] 4 | zero exact
jax.lax:logistic f32[6] | diagonal exact
jax.lax:batch_matmul f32[2,2,3] f32[2,3,2] | block-diagonal exact; block-diagonal exact
jax.lax.linalg:cholesky f32[2,3,3] | block-diagonal wide
jax.lax.linalg:triangular_solve f32[3,3] f32[2,3] | sparse exact; block-diagonal exact
jax.numpy:fmod f32[6] f32[6] | identity exact; diagonal exact
jax.numpy:arctan2 f32[6] f32[6] | diagonal exact; diagonal exact
jax.numpy:rot90 f32[2,3] | permutation exact
jax.numpy:pad f32[3] 2 | selection exact
jax.numpy:stack f32[2,3] | identity exact
jax.numpy:ptp f32[5] | dense exact
jax.scipy.special:log_ndtr f32[6] | diagonal exact
jax.scipy.special:digamma f32[6]:positive | diagonal exact
jax.scipy.special:i0 f32[6] | diagonal exact
jax.scipy.special:softmax f32[3,4] | diagonal-plus-low-rank exact
jax.scipy.special:log_softmax f32[3,4] | diagonal-plus-low-rank exact
jax.scipy.linalg:solve_triangular f32[3,3] f32[3] | upper-triangular exact; upper-triangular exact
jax.scipy.fft:dct f32[6] | dense wide
jax.numpy.linalg:eigvalsh f32[3,3] | dense exact
jax.numpy.linalg:cross f32[3] f32[3] | dense exact; dense exact
jax.numpy.linalg:qr f32[3,2] | dense exact; dense exact
"""
