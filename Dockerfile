# diffaug with CUDA, for a user without rights:
#   docker build -t diffaug .
#   docker run --rm --gpus all --shm-size 8g -v /data/nnunet:/data diffaug pretrain --task 101
FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/diffaug
ENV PATH=/opt/diffaug/bin:$PATH

COPY . /tmp/source
RUN pip install --no-cache-dir "/tmp/source[reader-study]" && rm -rf /tmp/source

RUN useradd --create-home --uid 10001 diffaug && mkdir /data && chown diffaug /data
USER diffaug
WORKDIR /home/diffaug
ENV nnUNet_raw=/data/nnUNet_raw nnUNet_preprocessed=/data/nnUNet_preprocessed nnUNet_results=/data/nnUNet_results \
    OMP_WAIT_POLICY=passive
# what nnUNetv2_train and nnUNetv2_predict need to find the trainers: the same path that `diffaug trainer-path` prints
RUN ln -s "$(diffaug trainer-path)" /home/diffaug/trainers
ENV nnUNet_extTrainer=/home/diffaug/trainers

ENTRYPOINT ["diffaug"]
CMD ["--help"]
