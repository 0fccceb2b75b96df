# One image for the driver, the scheduler, the workers and the notebooks.
#   docker build -t darkhaloscope .
# BASE is any Python 3.13 on glibc; PIP_INDEX_URL is for a mirror of PyPI.
ARG BASE=python:3.13-slim-trixie

FROM ${BASE} AS dependencies
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements/ /requirements/
# What takes room and nobody imports: the tests of the large ones. Not those of astropy and h5py, which import
# theirs, nor of tornado and distributed, whose helpers read files there.
RUN python -m venv --without-pip /opt/venv \
 && python -m pip --python /opt/venv/bin/python install --require-hashes --only-binary :all: -r /requirements/image.txt \
 && for name in dask matplotlib numba numpy pandas pyarrow scipy sklearn xarray; do \
      find /opt/venv/lib/python3.*/site-packages/"$name" -type d -name tests -prune -exec rm -r {} +; \
    done

FROM dependencies AS package
RUN python -m venv /opt/build \
 && /opt/build/bin/python -m pip install --require-hashes --only-binary :all: -r /requirements/build.txt
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src/ src/
# Layers keep whole seconds, and numba's cache compares the time of a source file to the fraction. Bytecode
# that is older than its source would be made again by every process of a pod, which writes none.
RUN /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python -m pip --python /opt/venv/bin/python install --no-deps --prefix /package /wheels/*.whl \
 && find /package -exec touch -d 2026-01-01T00:00:00Z {} + \
 && python -m compileall -q -f --invalidation-mode unchecked-hash /package

FROM ${BASE}
# The CPU baseline that makes the same bytes on any x86-64 machine: as in the Makefile.
ENV NUMBA_CPU_NAME=x86-64-v3 \
    NUMBA_CPU_FEATURES= \
    NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR" \
    PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/home/dhs \
    MPLCONFIGDIR=/tmp/matplotlib \
    MALLOC_TRIM_THRESHOLD_=33554432 MALLOC_MMAP_THRESHOLD_=8388608 \
    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
RUN useradd --uid 1000 --gid 100 --create-home --home-dir /home/dhs --shell /bin/bash dhs
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=package /package /opt/venv
COPY docker/entrypoint /usr/local/bin/entrypoint
COPY docker/jupyter_server_config.py /opt/venv/etc/jupyter/
COPY docker/warm.py /opt/warm.py
RUN NUMBA_CACHE_DIR=/opt/numba-cache python /opt/warm.py && rm -r /tmp/*
COPY notebooks/ /opt/notebooks/
USER 1000:100
WORKDIR /home/dhs
ENTRYPOINT ["/usr/local/bin/entrypoint"]
CMD ["dhs", "--help"]
HEALTHCHECK NONE
